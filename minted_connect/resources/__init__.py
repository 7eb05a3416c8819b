"""The operations of the API except completions: one module for each group of the vendor's menu.

To add an operation, follow the guide `guides/adding-an-operation.md`.
"""
