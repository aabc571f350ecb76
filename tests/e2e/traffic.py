"""Requests at a steady pace from inside the cluster, each counted, while something happens to what serves them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from testbed.product import Product

# A new connection for each request, as the least patient client makes them; ends by itself.
LOOP = """
import json, sys, time, urllib.request
url, seconds, host = sys.argv[1], float(sys.argv[2]), sys.argv[3]
end, good, bad = time.time() + seconds, 0, []
while time.time() < end:
    began = time.time()
    try:
        request = urllib.request.Request(url, headers={"Host": host} if host else {})
        with urllib.request.urlopen(request, timeout=10) as answer:
            answer.read()
            good += 1
    except Exception as error:
        bad.append(f"{time.strftime('%H:%M:%S')} {error}")
    time.sleep(max(0.0, began + 0.02 - time.time()))
print(json.dumps({"good": good, "bad": bad}))
"""


@dataclass
class Result:
    good: int = 0
    bad: list[str] = field(default_factory=list)


@contextmanager
def flowing(product: Product, pod: str, namespace: str, url: str, *, seconds: int, host: str = "") -> Iterator[Result]:
    """Requests from container `app` of a pod for so many seconds; what became of them is known after the block."""
    result = Result()
    command = product.command(
        "-n", namespace, "exec", pod, "-c", "app", "--", "python3", "-c", LOOP, url, str(seconds), host
    )
    with subprocess.Popen(command, env=product.environment, stdout=subprocess.PIPE, text=True) as process:
        yield result
        output, _ = process.communicate(timeout=seconds + 60)
    answer = json.loads(output)
    result.good, result.bad = answer["good"], answer["bad"]
