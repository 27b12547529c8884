"""Codes in stores: PostgreSQL on a server of its own, and requests against the models of the stores' clients.

With HYPERSIGN_LONG alone, which `.ci/long engines` sets, for what starts a server or needs a client.
"""

import json
import os
import runpy
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hypersign import HammingIndex, SignHasher

EXAMPLES = Path(__file__).parents[1] / "examples"
LONG = pytest.mark.skipif("HYPERSIGN_LONG" not in os.environ, reason="runs in .ci/long engines")

VECTORS = np.random.default_rng(0).standard_normal((70, 24)).astype(np.float32)
QUERY = VECTORS[:1] + 0.1
HASHER = SignHasher(bits=64, output="bits").fit(VECTORS)


def requests(store: str) -> list[Any]:
    return runpy.run_path(str(EXAMPLES / "store_requests.py"))[store](HASHER, VECTORS, QUERY)


def distances(codes: np.ndarray, query: np.ndarray) -> list[int]:
    """Hamming distances of rows of bytes, nearest first."""
    return sorted(np.bitwise_count(codes ^ query).sum(1).tolist())[:10]


OURS = HammingIndex(HASHER, HASHER.codes(VECTORS)).search(QUERY, 10)


@pytest.fixture
def postgres(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """A server in a folder of its own, with a socket there alone; PostgreSQL refuses to run as root."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = found[-1] if found else Path(shutil.which("initdb") or "")
    if not initdb.is_file() or not shutil.which("psql"):
        pytest.skip("needs PostgreSQL's server and psql")
    folder = tempfile.mkdtemp(prefix="pg-", dir="/tmp")
    user: dict[str, Any] = {"user": "nobody", "extra_groups": []} if os.getuid() == 0 else {}
    if user:
        shutil.chown(folder, "nobody")
    data = f"{folder}/data"
    start = [str(initdb), "--no-sync", "-A", "trust", "-U", "tester", "-D", data]
    subprocess.run(start, check=True, capture_output=True, cwd=folder, **user)
    words = [str(initdb.with_name("postgres")), "-D", data, "-k", folder, "-c", "listen_addresses=", "-F"]
    with open(f"{folder}/log", "wb") as log:
        server = subprocess.Popen(words, stdout=log, stderr=log, cwd=folder, **user)
    for name, value in (("PGHOST", folder), ("PGUSER", "tester"), ("PGDATABASE", "postgres")):
        monkeypatch.setenv(name, value)

    def sql(command: str) -> str:
        words = ["psql", "--no-psqlrc", "-qAt", "-v", "ON_ERROR_STOP=1", "-c", command]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    try:
        for _ in range(600):
            if subprocess.run(["psql", "-c", "SELECT 1"], capture_output=True).returncode == 0:
                break
            assert server.poll() is None, Path(f"{folder}/log").read_text()
            time.sleep(0.1)
        yield sql
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)


@LONG
def test_postgres_finds_what_the_index_finds(postgres, capsys) -> None:
    runpy.run_path(str(EXAMPLES / "postgres_codes.py"), run_name="__main__")
    assert capsys.readouterr().out.split() == ["same", "as", "HammingIndex:", "True", "bytes:", "37"]
    # pgvector's operator, made of PostgreSQL's own; its index cannot be made without pgvector
    postgres("CREATE FUNCTION hamming(bit, bit) RETURNS bigint LANGUAGE sql AS 'SELECT bit_count($1 # $2)'")
    postgres("CREATE OPERATOR <~> (LEFTARG = bit, RIGHTARG = bit, FUNCTION = hamming)")
    create, insert, index, search = requests("pgvector")
    postgres(create)
    postgres(insert)
    assert [int(line) for line in postgres(search).split()] == OURS.indices[0].tolist()
    assert "USING hnsw (code bit_hamming_ops)" in index


def test_requests_hold_the_codes() -> None:
    expected = OURS.distances[0].tolist()
    _, rows, search = requests("milvus")
    codes = np.array([np.frombuffer(row["code"], np.uint8) for row in rows["data"]])
    assert distances(codes, np.frombuffer(search["data"][0], np.uint8)) == expected
    _, lines, search = requests("opensearch")
    codes = np.array([line["code"] for line in lines if "code" in line], np.int8)
    assert codes.shape == (70, 8)
    assert (
        distances(codes.view(np.uint8), np.array(search["query"]["knn"]["code"]["vector"]).astype(np.uint8))
        == expected
    )
    json.dumps([lines, search])
    _, points, search = requests("qdrant")
    signs = np.array([point["vector"] for point in points["points"]]) > 0  # as Qdrant takes them
    assert sorted((signs != (np.array(search["query"]) > 0)).sum(1).tolist())[:10] == expected


@LONG
@pytest.mark.filterwarnings("ignore")
def test_requests_to_qdrant_are_those_of_its_client() -> None:
    models = pytest.importorskip("qdrant_client").models
    create, points, search = requests("qdrant")
    for model, request in (
        (models.CreateCollection, create),
        (models.PointsList, points),
        (models.QueryRequest, search),
    ):
        made = model.model_validate(request)
        assert not made.model_extra
        assert model.model_validate_json(made.model_dump_json(exclude_unset=True)) == made
    assert models.CreateCollection.model_validate(create).quantization_config.binary.always_ram


@LONG
@pytest.mark.filterwarnings("ignore")
def test_requests_to_milvus_are_those_of_its_client() -> None:
    pymilvus = pytest.importorskip("pymilvus")
    create, rows, _ = requests("milvus")
    schema = pymilvus.CollectionSchema(
        [
            pymilvus.FieldSchema(
                field["name"],
                pymilvus.DataType[field["type"]],
                is_primary=field.get("is_primary", False),
                **field.get("params", {}),
            )
            for field in create["fields"]
        ]
    )
    schema.verify()
    assert [field.params for field in schema.fields] == [{}, {"dim": 64}]
    index = pymilvus.MilvusClient.prepare_index_params()
    index.add_index(**create["index"])
    assert set(rows["data"][0]) == {field.name for field in schema.fields}


@LONG
@pytest.mark.filterwarnings("ignore")
def test_requests_to_opensearch_leave_its_client_whole() -> None:
    opensearch = pytest.importorskip("opensearchpy")
    sent = []

    class Recorder(opensearch.Connection):
        def perform_request(self, method, url, params=None, body=None, timeout=None, ignore=(), headers=None):
            sent.append((method, url, body))
            return 200, {"content-type": "application/json"}, "{}"

    create, lines, search = requests("opensearch")
    client = opensearch.OpenSearch("localhost", connection_class=Recorder)
    client.indices.create(index="items", body=create)
    client.bulk(index="items", body=lines)
    client.search(index="items", body=search)
    assert [(method, url) for method, url, _ in sent] == [
        ("PUT", "/items"),
        ("POST", "/items/_bulk"),
        ("POST", "/items/_search"),
    ]
    assert json.loads(sent[0][2]) == create
    assert [json.loads(line) for line in sent[1][2].decode().splitlines()] == lines
    assert json.loads(sent[2][2]) == search
