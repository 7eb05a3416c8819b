"""Contents of responses and errors, and public types: statements 36 to 40, 43 and 44."""

from __future__ import annotations

from tests.mutations.mutation import Mutation

RESPONSES = [
    Mutation(
        36,
        "a decompression bomb is read to its end",
        "core/response.py",
        "        bytes_left -= len(chunk)\n",
        "",
        "test_transport.py",
    ),
    Mutation(
        36,
        "nesting has no limit",
        "core/exact_json.py",
        'if body.count(b"[") + body.count(b"{") > max_depth and _is_deeper(data, max_depth):',
        "if False:",
        "core/test_exact_json.py",
    ),
    Mutation(
        36,
        "NaN is a number",
        "core/exact_json.py",
        '    raise Malformed("NaN or Infinity in place of a number")',
        '    return float("nan")',
        "core/test_exact_json.py",
    ),
    Mutation(
        37,
        "fractions pass through a float",
        "core/exact_json.py",
        "parse_float=_EXACT.create_decimal,",
        "parse_float=lambda digits: Decimal(str(float(digits))),",
        "core/test_exact_json.py",
    ),
    Mutation(
        37,
        "a price is a float",
        "models/deal.py",
        '    price: Decimal\n    """Money per piece."""',
        '    price: float\n    """Money per piece."""',
        "test_models.py",
    ),
    Mutation(
        38,
        "an unknown word is refused",
        "core/model_decoder.py",
        "return members.get(_structure_str(value), value)",
        "return members[_structure_str(value)]",
        "core/test_exact_json.py",
    ),
    Mutation(
        38,
        "null is accepted for a required time",
        "core/model_decoder.py",
        '    raise RuleBroken("must be a date and time")',
        '    if value is not None:\n        raise RuleBroken("must be a date and time")\n    return value',
        "core/test_required_fields.py",
    ),
    Mutation(
        39,
        "errors of aiohttp reach the caller",
        "core/transport.py",
        "except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError",
        "except OSError as error:",
        "test_transport.py",
    ),
    Mutation(
        39,
        "the error of aiohttp becomes the context",
        "core/transport.py",
        "            failure = map_failure(error, self._options, timeouts, limit, progress)\n",
        "            raise map_failure(error, self._options, timeouts, limit, progress)\n",
        "test_transport.py",
    ),
    Mutation(
        39,
        "an error is not in the documented tree",
        "errors.py",
        "class PoolTimeout(NotSent):",
        "class PoolTimeout(MintedConnectError):",
        "test_errors.py",
    ),
    Mutation(
        40,
        "errors have no request id",
        "core/response.py",
        "failure.status, failure.request_id = raw.status, request_id",
        "failure.status, failure.request_id = raw.status, None",
        "core/test_api_client.py",
    ),
    Mutation(
        40,
        "results do not count attempts",
        "core/response.py",
        'return Response(raw.status, raw.headers, request_id, attempts, elapsed, document["data"], sent_at)',
        'return Response(raw.status, raw.headers, request_id, 1, elapsed, document["data"], sent_at)',
        "core/test_api_client.py",
    ),
    Mutation(
        43,
        "any value is an array",
        "core/model_decoder.py",
        '    if rows is None:\n        raise RuleBroken("must be an array")\n',
        "    if rows is None:\n        return value\n",
        "core/test_exact_json.py",
    ),
    Mutation(
        43,
        "a page of a gateway that is not UTF-8 raises a foreign error",
        "core/error_mapping.py",
        '.decode("utf-8", "replace")',
        ".decode()",
        "test_fuzz.py",
    ),
]

TYPES = [
    Mutation(
        44,
        "a public function has no return type",
        "core/headers.py",
        "def retry_after(headers: Mapping[str, str], now: Callable[[], datetime]) -> float | None:",
        "def retry_after(headers: Mapping[str, str], now):",
        "minted_connect.core.headers.retry_after",
    ),
]
"""Not killed by a test but by `pyright --verifytypes`, which names the function in place of `tests`."""
