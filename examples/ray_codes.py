"""Hashes a Ray data set on its workers; the codes equal those of one machine, bit for bit.

Per vector of d float32 numbers: 4 d bytes are read twice, and bits / 8 bytes are added. Ray does not promise an order
of rows, so keep an id beside each vector.
"""

import numpy as np
import ray

from hypersign import SignHasher
from hypersign.hashing import HammingIndex, hash_dataset

vectors = np.random.default_rng(0).standard_normal((2000, 64)).astype(np.float32)
data = ray.data.from_items([{"id": i, "vector": x} for i, x in enumerate(vectors)])  # or ray.data.read_parquet(...)

hasher = SignHasher(bits=256)
rows = hash_dataset(data, hasher).take_all()  # or .write_parquet(...)
codes = np.stack([row["code"] for row in sorted(rows, key=lambda row: row["id"])])
print(f"same codes as one machine: {np.array_equal(codes, SignHasher(bits=256).fit_transform(vectors))}")
print(f"{len(HammingIndex(hasher, codes)):,} codes of {codes[0].nbytes} bytes")
