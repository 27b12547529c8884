"""Hashes a Dask array chunk by chunk; the codes equal those of one machine, bit for bit.

Per vector of d float32 numbers: 4 d bytes are read twice, and bits / 8 bytes are made. Rows keep their order.
"""

import dask.array
import numpy as np

from hypersign import SignHasher
from hypersign.hashing import hash_dataset

vectors = np.random.default_rng(0).standard_normal((2000, 64)).astype(np.float32)
array = dask.array.from_array(vectors, chunks=(300, 64))  # or dask.array.from_npy_stack(folder)

codes = hash_dataset(array, SignHasher(bits=256)).compute()  # or .to_zarr(folder)
print(f"same codes as one machine: {np.array_equal(codes, SignHasher(bits=256).fit_transform(vectors))}")
print(f"{len(codes):,} codes of {codes[0].nbytes} bytes")
