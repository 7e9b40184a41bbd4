"""The catalog: books from MariaDB, whose protocol is server-first."""

from __future__ import annotations

from stores import mysql
from web import Answer, serve

DATABASE = "mariadb"


def books(number: str) -> Answer:
    if not number:
        rows = mysql(DATABASE, "SELECT id, title, author, cents FROM bookstore.books ORDER BY id")
        return 200, [{"id": int(i or 0), "title": title, "author": author, "cents": int(cents or 0)} for i, title, author, cents in rows]
    if not number.isdecimal():
        return 400, {"error": f"{number!r} is not a book's number"}
    rows = mysql(DATABASE, f"SELECT title FROM bookstore.books WHERE id = {int(number)}")
    return (200, {"id": int(number), "title": rows[0][0]}) if rows else (404, {"error": f"no book {number}"})


def healthy(_: str) -> Answer:
    return 200, "ok"


if __name__ == "__main__":
    serve(8080, {("GET", "books"): books, ("GET", "healthz"): healthy})
