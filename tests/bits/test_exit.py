"""A process may end while a daemon thread is inside a kernel."""

import subprocess
import sys

import pytest

# Clearing modules at exit waits in `Slow`: there the thread comes back from its kernel and asks for the lock.
CODE = """
import threading, time
import numpy as np
from hypersign import bits

x = np.random.default_rng(0).standard_normal((400, 4096)).astype(np.float32)
words = bits.pack(x)
filters = bits.Filters(words[:64], shape=(1, 1, 4096))
images = words.reshape(4, 10, 10, -1)


def work(_, np=np, bits=bits, x=x, words=words, filters=filters, images=images):
    while True:
        BODY


class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(0.3)


threading.Thread(target=work, daemon=True, args=(None,)).start()
slow = Slow()
time.sleep(0.2)
print("ends")
"""


@pytest.mark.parametrize(
    "body",
    [
        "bits.hamming(words, words, threads=2)",
        "bits.hamming_topk(words, words, 10, threads=2)",
        "bits.pack(x)",
        "bits.hadamard_transform(x, threads=2)",
        "filters.conv2d(images, threads=2)",
    ],
)
def test_a_daemon_thread_in_a_kernel(body: str) -> None:
    code = CODE.replace("BODY", body)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "ends\n", "")
