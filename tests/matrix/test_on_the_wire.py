"""Answers that never end, that cannot be read, that nobody asked for, or that are about somebody else."""

from __future__ import annotations

from minted_connect import IntegrityError, ProtocolError, RequestTimeout
from tests.matrix import acts
from tests.matrix.proxy import Answer
from tests.matrix.scene import PATIENCE, Play, Strike, World, both, both_clients, perform, plays

NEVER = {
    "interim": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n"),
    "head": (b"HTTP/1.1 200 OK\r\nX-Filler: ", b"x"),
    "body": (b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n{"data":', b" "),
}


def many_headers(answer: Answer) -> Answer:
    return answer.having(*((f"X-Filler-{number}", "x") for number in range(150)))


def long_line(answer: Answer) -> Answer:
    return answer.having(("X-Filler", "x" * 9000))


SPUN_OUT = [
    *[
        strike
        for name, (raw, drip) in NEVER.items()
        for strike in both(
            "F35",
            name,
            lambda landed, raw=raw, drip=drip: acts.unending(PATIENCE, raw, drip, landed=landed),
            RequestTimeout,
            case="slow",
            slow=True,
        )
    ],
    *[
        strike
        for change in (many_headers, long_line)
        for strike in both(
            "F35",
            change.__name__.replace("_", "-"),
            lambda landed, change=change: acts.spoilt(change, landed=landed),
            ProtocolError,
            case="unreadable",
        )
    ],
]


TO_THE_END = acts.unending(60, *NEVER["body"])
DEADLINE = [Strike("F35", "", TO_THE_END, RequestTimeout, case="deadline", effects="R")]


@both_clients([*plays(SPUN_OUT), *plays(DEADLINE)])
async def test_answers_without_end(world: World, play: Play) -> None:
    await perform(world, play)


# F36.


def twice(answer: Answer) -> bytes:
    return answer.raw * 2


def then_another(answer: Answer) -> bytes:
    return answer.raw + acts.envelope(500)


TWO = [
    Strike("F36", "same", acts.spoilt(twice), ProtocolError, landed=True, case="two"),
    Strike("F36", "other", acts.spoilt(then_another), ProtocolError, landed=True, case="two"),
]


@both_clients(plays(TWO))
async def test_two_answers(world: World, play: Play) -> None:
    await perform(world, play)
    first = world.proxy.of(play.deed.method, play.deed.path)[0].connection
    assert (await world.minted.customers.get("customer-1")).external_id == "customer-1"
    assert world.proxy.passages[-1].connection is not first


# F37.


def another_customer(answer: Answer) -> Answer:
    """Return the answer that somebody else is waiting for."""

    def change(data):
        if "customer" in data:
            return data | {"customer": data["customer"] | {"external_id": "customer-2"}}
        return data | {"external_id": "customer-2"}

    return answer.with_data(change)


def another_basket(answer: Answer) -> Answer:
    return answer.with_data(lambda data: data | {"token": "T" * 32})


MIXED_UP = [
    Strike("F37", "customer", acts.spoilt(another_customer), IntegrityError, landed=True),
    Strike("F37", "basket", acts.spoilt(another_basket), IntegrityError, landed=True, effects="SAM"),
]


@both_clients(plays(MIXED_UP))
async def test_answers_about_somebody_else(world: World, play: Play) -> None:
    await perform(world, play)
