"""Codes of HyperSign in FAISS: the same search by brute force, and a graph or cells over them for many more.

FAISS takes codes as bytes and compares them as ours, by the bits that differ, so little-endian words need only be
seen as bytes; bits must be a multiple of 8. Anything else that stores binary vectors takes the same bytes.
"""

import faiss
import numpy as np

from hypersign.hashing import HammingIndex, SignHasher, recall

random = np.random.default_rng(0)
vectors = random.standard_normal((5000, 64)) * np.exp(-0.03 * np.arange(64))
queries = vectors[:100] + 0.1 * random.standard_normal((100, 64))

hasher = SignHasher(bits=256).fit(vectors)
index = HammingIndex(hasher, hasher.transform(vectors))
ours = index.search(queries, k=10)

code_bytes = index.codes.astype("<u8").view(np.uint8)[:, : hasher.bits // 8]
query_bytes = hasher.transform(queries).astype("<u8").view(np.uint8)[:, : hasher.bits // 8]

flat = faiss.IndexBinaryFlat(hasher.bits)
flat.add(np.ascontiguousarray(code_bytes))
distances, _ = flat.search(np.ascontiguousarray(query_bytes), 10)
print(f"same distances as IndexBinaryFlat: {np.array_equal(distances, ours.distances)}")

graph = faiss.IndexBinaryHNSW(hasher.bits, 16)
graph.add(np.ascontiguousarray(code_bytes))
_, found = graph.search(np.ascontiguousarray(query_bytes), 10)
print(f"IndexBinaryHNSW finds {recall(found, ours.indices, 10):.1%} of the 10 nearest codes")

# Cells: a query is compared with the codes of the nearest 16 of 64 cells. Ids go along.
cells = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(hasher.bits), hasher.bits, 64)
cells.train(np.ascontiguousarray(code_bytes))
cells.add_with_ids(np.ascontiguousarray(code_bytes), index.ids)
cells.nprobe = 16
_, found = cells.search(np.ascontiguousarray(query_bytes), 10)
print(f"IndexBinaryIVF finds {recall(found, ours.indices, 10):.1%} of the 10 nearest codes")
