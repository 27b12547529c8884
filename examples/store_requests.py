"""Requests that put HyperSign's codes into Qdrant, pgvector, Milvus and OpenSearch. None was tried against a server.

Each function returns what makes the collection, what adds vectors, and what searches for the ten nearest.

    Qdrant      rotated float32 vectors; it takes their signs itself (the same bits), and rescores with the vectors
    pgvector    bit(256): 32 bytes; Hamming distances, exact without the index
    Milvus      BINARY_VECTOR: 32 bytes; Hamming distances, exact with BIN_FLAT
    OpenSearch  binary knn_vector: 32 bytes; Hamming distances through an HNSW graph
"""

import json
from typing import Any

import numpy as np

from hypersign import SignHasher

Request = dict[str, Any]


def qdrant(hasher: SignHasher, vectors: np.ndarray, query: np.ndarray) -> list[Request]:
    create = {
        "vectors": {"size": hasher.bits, "distance": "Cosine", "on_disk": True},
        "quantization_config": {"binary": {"always_ram": True, "encoding": "one_bit"}},
    }
    points = [{"id": i, "vector": row.tolist()} for i, row in enumerate(hasher.project(vectors))]
    search = {
        "query": hasher.project(query)[0].tolist(),
        "limit": 10,
        "params": {"quantization": {"rescore": True, "oversampling": 4.0}},
    }
    return [create, {"points": points}, search]


def pgvector(hasher: SignHasher, vectors: np.ndarray, query: np.ndarray) -> list[str]:
    texts = ["".join(map(str, code)) for code in hasher.transform(np.concatenate([vectors, query]))]
    rows = ", ".join(f"({i}, B'{code}')" for i, code in enumerate(texts[:-1]))
    return [
        f"CREATE TABLE vectors (id int PRIMARY KEY, code bit({hasher.bits}))",
        f"INSERT INTO vectors VALUES {rows}",
        "CREATE INDEX ON vectors USING hnsw (code bit_hamming_ops)",
        f"SELECT id FROM vectors ORDER BY code <~> B'{texts[-1]}', id LIMIT 10",
    ]


def milvus(hasher: SignHasher, vectors: np.ndarray, query: np.ndarray) -> list[Request]:
    fields = [
        {"name": "id", "type": "INT64", "is_primary": True},
        {"name": "code", "type": "BINARY_VECTOR", "params": {"dim": hasher.bits}},
    ]
    index = {"field_name": "code", "index_type": "BIN_FLAT", "metric_type": "HAMMING"}
    rows = [{"id": i, "code": row.tobytes()} for i, row in enumerate(hasher.codes(vectors).astype("<u8"))]
    search = {"data": [hasher.codes(query).astype("<u8").tobytes()], "anns_field": "code", "limit": 10}
    return [{"fields": fields, "index": index}, {"data": rows}, search]


def opensearch(hasher: SignHasher, vectors: np.ndarray, query: np.ndarray) -> list[Any]:
    method = {"name": "hnsw", "engine": "faiss"}
    code = {
        "type": "knn_vector",
        "dimension": hasher.bits,
        "data_type": "binary",
        "space_type": "hamming",
        "method": method,
    }
    create = {"settings": {"index": {"knn": True}}, "mappings": {"properties": {"code": code}}}
    signed = hasher.codes(np.concatenate([vectors, query])).astype("<u8").view(np.int8).tolist()
    lines = [line for i, row in enumerate(signed[:-1]) for line in ({"index": {"_id": str(i)}}, {"code": row})]
    return [create, lines, {"size": 10, "query": {"knn": {"code": {"vector": signed[-1], "k": 10}}}}]


if __name__ == "__main__":
    vectors = np.random.default_rng(0).standard_normal((100, 64)).astype(np.float32)
    hasher = SignHasher(bits=256, output="bits").fit(vectors)
    for store in (qdrant, pgvector, milvus, opensearch):
        create, *_, search = store(hasher, vectors, vectors[:1])
        print(f"{store.__name__}: {json.dumps(create)}; then searches with {str(search)[:60]}...")
