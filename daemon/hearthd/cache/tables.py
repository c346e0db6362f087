"""Tables of the cache's database: scopes, and the answers in them; sums are kept by triggers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hearthd.store.schema import Schema

if TYPE_CHECKING:
    import sqlite_utils


def m001_answers(db: sqlite_utils.Database) -> None:
    """Answers by fingerprint; `used` orders them for eviction, `hits` and the time saved for people."""
    db.execute(
        """
        CREATE TABLE scopes (
            id INTEGER PRIMARY KEY,
            partition TEXT NOT NULL,
            model TEXT NOT NULL,
            digest TEXT NOT NULL,
            n_answers INTEGER NOT NULL DEFAULT 0,
            n_bytes INTEGER NOT NULL DEFAULT 0,
            UNIQUE (partition, model, digest)
        )
        """
    )
    db.execute(
        """
        CREATE TABLE answers (
            id INTEGER PRIMARY KEY,
            key BLOB NOT NULL UNIQUE,
            scope INTEGER NOT NULL REFERENCES scopes (id),
            created REAL NOT NULL,
            used REAL NOT NULL,
            hits INTEGER NOT NULL DEFAULT 0,
            cost_seconds REAL NOT NULL,
            n_prompt INTEGER NOT NULL,
            n_output INTEGER NOT NULL,
            n_bytes INTEGER NOT NULL,
            question TEXT NOT NULL,
            body BLOB NOT NULL
        )
        """
    )
    for statement in (
        "CREATE INDEX answers_used ON answers (used)",
        "CREATE INDEX answers_scope ON answers (scope)",
        "CREATE INDEX answers_hits ON answers (hits) WHERE hits > 0",
        "CREATE INDEX answers_saved ON answers (hits * cost_seconds) WHERE hits > 0",
        """
        CREATE TRIGGER answers_added AFTER INSERT ON answers BEGIN
            UPDATE scopes SET n_answers = n_answers + 1, n_bytes = n_bytes + new.n_bytes
            WHERE id = new.scope;
        END
        """,
        """
        CREATE TRIGGER answers_gone AFTER DELETE ON answers BEGIN
            UPDATE scopes SET n_answers = n_answers - 1, n_bytes = n_bytes - old.n_bytes
            WHERE id = old.scope;
        END
        """,
    ):
        db.execute(statement)


def m002_questions(db: sqlite_utils.Database) -> None:
    """Questions of kept answers, to be found by other words; they go with their answers."""
    db.execute(
        """
        CREATE TABLE questions (
            id INTEGER PRIMARY KEY,
            context BLOB NOT NULL,
            answer INTEGER NOT NULL UNIQUE REFERENCES answers (id) ON DELETE CASCADE,
            question TEXT NOT NULL,
            signs BLOB NOT NULL,
            vector BLOB NOT NULL
        )
        """
    )
    db.execute("CREATE INDEX questions_context ON questions (context)")


def m003_signs(db: sqlite_utils.Database) -> None:
    """All that a look for the nearest reads of each question, beside each other."""
    db.execute("DROP INDEX questions_context")
    db.execute("CREATE INDEX questions_signs ON questions (context, answer, signs)")


SCHEMA = Schema("cache", (m001_answers, m002_questions, m003_signs), "hearthd.cache.tables:SCHEMA")
