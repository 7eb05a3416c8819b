"""The operations of the API except completions: one module for each group of the vendor's menu."""
