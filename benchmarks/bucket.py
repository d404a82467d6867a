"""Training data from a bucket against a disk: samples/s with worker processes, and requests and bytes a sample.

    make .venv-bucket/test.stamp
    .venv-bucket/bin/python benchmarks/bucket.py --folder FOLDER

The store is a server on 127.0.0.1, behind a proxy that keeps each request for some time, as a bucket in the same region
does. Server, proxy and workers share the machine's cores. Each way is read in turns, by new workers each time.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
from sample_tars import add_tars, make_tars, pattern
from tqdm import tqdm

from flair_jax.data.pipeline import SampleSettings, batches
from flair_jax.data.tars import TarSource

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "bucket"))
from own_bucket import connected
from proxy import Behaviour, Proxy, proxied
from servers import serving

BATCH = 32


def main() -> None:
    """Makes the tars, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_tars(parser)
    parser.add_argument("--latency", type=float, default=20.0, help="of a request, in ms (default %(default)s)")
    parser.add_argument("--workers", type=int, default=4, help="processes that load (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way (default %(default)s)")
    parser.add_argument("--timed", type=int, default=1280, help="samples in a turn (default %(default)s)")
    parser.add_argument("--schemes", nargs="+", choices=["gs", "s3"], default=["gs", "s3"], help="(default both)")
    options = parser.parse_args()
    make_tars(parser, options)
    print(f"{options.samples:,} samples, {options.workers} workers, {options.latency:g} ms a request")
    rates: dict[str, list[float]] = {"disk": []}
    with contextlib.ExitStack() as stack:
        ways = {}
        for scheme in options.schemes:
            way = f"{scheme}://"
            ways[way] = stack.enter_context(uploaded(scheme, options))
            rates[way] = []
            with connected(ways[way][0]):
                print_requests(way, *ways[way])
        for _ in tqdm(range(options.rounds), unit="round"):
            rates["disk"].append(rate(pattern(options), options))
            for way, (proxy, url) in ways.items():
                with connected(proxy):
                    rates[way].append(rate(url, options))
    for way, found in rates.items():
        print(f"{way:<8}{statistics.median(found):8.0f} samples/s ({min(found):.0f} to {max(found):.0f})")


@contextlib.contextmanager
def uploaded(scheme: str, options: argparse.Namespace) -> Iterator[tuple[Proxy, str]]:
    """A proxy in front of a store that has the tars and their indexes, and the tars' pattern there."""
    with serving(scheme) as server, proxied(server, Behaviour(latency=options.latency / 1000)) as proxy:
        url = server.make_bucket("samples")
        with connected(server):
            files, root = fsspec.core.url_to_fs(url)
            for tar in (options.folder / "tars").glob("*.tar"):
                files.pipe_file(f"{root}/{tar.name}", tar.read_bytes())
            TarSource(f"{url}/*.tar", progress=False)
        yield proxy, f"{url}/*.tar"


def rate(tars: str, options: argparse.Namespace) -> float:
    """Samples per second, after the first batch of each worker."""
    settings = SampleSettings(seed=0, image_size=224, context_length=77, captions_per_image=8)
    stream = batches([TarSource(tars, progress=False)], settings, BATCH, workers=options.workers)
    with contextlib.closing(stream):
        for _ in range(options.workers):
            next(stream)
        start = time.perf_counter()
        for _ in range(options.timed // BATCH):
            next(stream)
        return options.timed / (time.perf_counter() - start)


def print_requests(way: str, proxy: Proxy, tars: str) -> None:
    """What 200 samples cost, and what their files take."""
    source = TarSource(tars, progress=False)
    proxy.forget()
    taken = [source[number * len(source) // 200] for number in range(200)]
    pictures = sum(len(record.image) for record in taken)
    requests = sum(proxy.requests.values())
    sizes = f"{proxy.sent / 200:,.0f} bytes a sample, of which the picture has {pictures / 200:,.0f}"
    print(f"{way:<8}{requests / 200:8.2f} requests and {sizes}")


if __name__ == "__main__":
    main()
