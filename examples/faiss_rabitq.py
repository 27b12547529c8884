"""HyperSign's rotation and mean in FAISS's RaBitQ indexes, which leave both to the user.

FAISS stores 8 bytes beside d / 8 bytes of signs; with 2 to 4 bits it stores (b - 1) d / 8 + 12 bytes more. Its signs
are those of HyperSign's codes. Distances are FAISS's estimates of squared Euclidean distances.
"""

import faiss
import numpy as np

from hypersign import SignHasher
from hypersign.hashing import recall

random = np.random.default_rng(0)
vectors = (random.standard_normal((5000, 64)) * np.exp(-0.03 * np.arange(64))).astype(np.float32)
queries = (vectors[:100] + 0.1 * random.standard_normal((100, 64))).astype(np.float32)
truth = np.argsort(((queries[:, None] - vectors) ** 2).sum(2), axis=1)[:, :10]

hasher = SignHasher(bits=64).fit(vectors)  # as many bits as dimensions, so that distances stay
rotated, asked = (hasher.project(x).astype(np.float32) for x in (vectors, queries))
for bits in (1, 2, 4):
    index = faiss.IndexRaBitQ(64, faiss.METRIC_L2, bits)
    index.train(rotated)
    index.add(rotated)
    found = index.search(asked, 10)[1]
    print(f"{bits} bits, {index.code_size} bytes: finds {recall(found, truth, 10):.1%} of the 10 nearest vectors")
    signs = faiss.vector_to_array(index.codes).reshape(len(vectors), -1)[:, :8]
    same = (np.unpackbits(~signs ^ hasher.transform(vectors).view(np.uint8)) == 0).mean()
    print(f"its signs are ours: {same:.2%}")
