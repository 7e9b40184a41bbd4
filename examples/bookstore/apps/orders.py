"""The orders: counted in Redis."""

from __future__ import annotations

from stores import redis
from web import Answer, serve

STORE = "redis"


def order(book: str) -> Answer:
    return 201, {"order": redis(STORE, "INCR", "orders"), "book": book, "copies": redis(STORE, "HINCRBY", "sold", book, 1)}


def sold(_: str) -> Answer:
    flat = redis(STORE, "HGETALL", "sold")
    pairs = flat if isinstance(flat, list) else []
    return 200, dict(zip(pairs[::2], pairs[1::2], strict=True))


def healthy(_: str) -> Answer:
    return 200, "ok"


if __name__ == "__main__":
    serve(8080, {("POST", "orders"): order, ("GET", "orders"): sold, ("GET", "healthz"): healthy})
