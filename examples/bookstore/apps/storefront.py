"""The shop window: lists the catalog, takes orders. Talks to `catalog` and `orders`, and knows nothing of a mesh."""

from __future__ import annotations

from web import Answer, call, serve

CATALOG = "http://catalog:8080"
ORDERS = "http://orders:8080"


def window(_: str) -> Answer:
    status, books = call(f"{CATALOG}/books")
    return status, {"welcome": "the bookstore", "books": books}


def buy(book: str) -> Answer:
    status, found = call(f"{CATALOG}/books/{book}")
    if status != 200:
        return status, found
    return call(f"{ORDERS}/orders/{book}", method="POST")


def healthy(_: str) -> Answer:
    return 200, "ok"


if __name__ == "__main__":
    serve(8080, {("GET", ""): window, ("POST", "buy"): buy, ("GET", "healthz"): healthy})
