"""Hashes a Spark data frame with `mapInArrow`; the codes equal those of one machine, bit for bit.

Per vector of d float32 numbers: 4 d bytes are read twice, and a binary column of bits / 8 bytes is added. Every
worker needs HyperSign, PySpark and PyArrow; Spark needs Java.
"""

import os
import sys

import numpy as np
from pyspark.sql import SparkSession

from hypersign import SignHasher
from hypersign.hashing import hash_dataset

os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # for workers on this machine
session = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
vectors = np.random.default_rng(0).standard_normal((2000, 64)).astype(np.float32)
rows = [(i, x.tolist()) for i, x in enumerate(vectors)]
frame = session.createDataFrame(rows, "id int, vector array<float>")  # or session.read.parquet(...)

hashed = hash_dataset(frame, SignHasher(bits=256)).orderBy("id").collect()  # or .write.parquet(...)
codes = np.stack([np.frombuffer(row["code"], "<u8") for row in hashed])
print(f"same codes as one machine: {np.array_equal(codes, SignHasher(bits=256).fit_transform(vectors))}")
session.stop()
