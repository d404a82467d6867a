"""Runs a module as `python -m` does, whose clients of Google's buckets ask again twenty times as soon.

A checkpoint takes some 200 requests one after the other. With one in ten failing and the clients' own waits of a second
or two, a save of a model of 3 MB takes half a minute, all of it spent waiting.
"""

import asyncio
import runpy
import sys
import types

SHARE = 1 / 20

if __name__ == "__main__":
    import gcsfs.core
    import gcsfs.retry
    from orbax.checkpoint._src.serialization import tensorstore_utils

    # Only the name in these two modules: asyncio's own sleep stays what it is.
    impatient = types.SimpleNamespace(**vars(asyncio))
    impatient.sleep = lambda seconds, *rest: asyncio.sleep(seconds * SHARE, *rest)
    gcsfs.core.asyncio = gcsfs.retry.asyncio = impatient
    for context in (tensorstore_utils._BASE_TS_CONTEXT, tensorstore_utils._DEFAULT_OCDBT_TS_CONTEXT):
        context["gcs_request_retries"] = {"initial_delay": f"{1000 * SHARE:.0f}ms"}
    module, sys.argv = sys.argv[1], sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
