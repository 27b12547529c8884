"""Codes of HyperSign in PostgreSQL 14 or later, without an extension: exact nearest codes by Hamming distance.

A `bit(256)` value takes 37 bytes: 32 and its header. Distances equal HyperSign's. Every query reads the table. psql
takes the server from PGHOST, PGUSER and PGDATABASE.
"""

import subprocess

import numpy as np

from hypersign import HammingIndex, SignHasher

random = np.random.default_rng(0)
vectors = random.standard_normal((2000, 64))
hasher = SignHasher(bits=256, output="bits").fit(vectors)


def sql(command: str, rows: str = "") -> str:
    words = ["psql", "--no-psqlrc", "-qAt", "-v", "ON_ERROR_STOP=1", "-c", command]
    return subprocess.run(words, input=rows, capture_output=True, text=True, check=True).stdout


def text(code: np.ndarray) -> str:
    return "".join(map(str, code))


sql("DROP TABLE IF EXISTS items; CREATE TABLE items (id int PRIMARY KEY, code bit(256))")
sql(
    "COPY items FROM STDIN (FORMAT csv)", "".join(f"{i},{text(c)}\n" for i, c in enumerate(hasher.transform(vectors)))
)

query = vectors[:1] + 0.1
nearest = f"SELECT id, bit_count(code # B'{text(hasher.transform(query)[0])}') FROM items ORDER BY 2, 1 LIMIT 10"
found = np.array([line.split("|") for line in sql(nearest).split()], int)
ours = HammingIndex(hasher, hasher.transform(vectors)).search(query, k=10)
print(f"same as HammingIndex: {np.array_equal(found.T, [ours.indices[0], ours.distances[0]])}")
print(f"bytes: {sql('SELECT pg_column_size(code) FROM items LIMIT 1').strip()}")
