"""Runs on a Dask cluster: one that exists, "tcp://HOST:PORT", or one made here, "local:4".

Workers compute and return records; the process that asked writes them. A worker needs this code, the same packages and
the data, but not the store. On a GPU each run takes one unit of the resource "GPU" (`dask worker --resources GPU=1`).
"""

import contextlib
import re

from sparsemtl.errors import SparseMTLError, SpecError, needs, one_line

from companion import engine

WAIT = 60  # seconds in which a scheduler and the first worker must answer


def results(specs, scheduler, root, device):
    """Yield (spec, record, failure) as runs end on the cluster.

    A run whose worker dies is given to another one. When the generator goes on, the record counts as written, and the
    worker may delete its checkpoint. Raises `SpecError` if no scheduler or worker answers, or none has a GPU that
    `device` needs, and `SparseMTLError` when the scheduler is lost or a worker would give other results.
    """
    with _client(scheduler, device) as client:
        from distributed import as_completed

        how = {"pure": False} if device == "cpu" else {"pure": False, "resources": {"GPU": 1}}
        here = facts()
        # earlier ones have priority
        futures = {client.submit(_attempt, spec, root, device, here, **how): spec for spec in specs}
        try:
            for future in as_completed(list(futures)):
                if future.status == "finished":
                    worker, *done = future.result()
                    yield tuple(done)
                    with contextlib.suppress(Exception):  # a checkpoint that stays does no harm
                        client.run(engine.ask_paper, "finished", done[0], workers=[worker], wait=False)
                elif future.status == "error":
                    error = future.exception()
                    if isinstance(error, SparseMTLError | ImportError):
                        raise SparseMTLError(f"a worker of {scheduler} refuses: {one_line(error, 400)}") from error
                    yield futures[future], None, f"its worker failed: {one_line(error, 200)}"
                else:
                    raise SparseMTLError(
                        f"the scheduler at {scheduler} is lost: finished records are kept; start it again with its "
                        "workers, then run the same command"
                    )
                future.release()
        finally:
            with contextlib.suppress(Exception):  # Ctrl-C, or a scheduler that is gone
                client.cancel(list(futures), force=True)


@contextlib.contextmanager
def _client(scheduler, device="cpu"):
    """A Dask client with a worker that serves the device; it closes at the end, and a cluster made here with it."""
    needs("--scheduler", "cluster", "distributed")
    local = re.fullmatch(r"local:([1-9]\d*)", scheduler)
    if not local and not re.fullmatch(r"(tcp|tls)://.+:\d+", scheduler):
        raise SpecError(f"scheduler is {scheduler!r}: give tcp://HOST:PORT, or local:N for N processes here")
    from distributed import Client, LocalCluster

    with contextlib.ExitStack() as stack:
        if local:
            cluster = LocalCluster(
                n_workers=int(local[1]), threads_per_worker=1, host="127.0.0.1", dashboard_address=None, memory_limit=0,
                silence_logs=50,
            )  # fmt: skip
            stack.enter_context(cluster)
        try:
            client = Client(cluster if local else scheduler, timeout=WAIT)
        except (OSError, ValueError) as error:
            raise SpecError(
                f"no scheduler answers at {scheduler} ({one_line(error, 100)}): start one by `dask scheduler`"
            ) from error
        stack.callback(lambda: client.close(timeout=5))
        try:
            client.wait_for_workers(1, timeout=WAIT)
        except TimeoutError:
            raise SpecError(f"the scheduler at {scheduler} has no worker: start one, see examples/cluster") from None
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        if device != "cpu" and not any(worker["resources"].get("GPU") for worker in workers):
            raise SpecError(f"no worker of {scheduler} has a GPU: start one by `dask worker --resources GPU=1`")
        yield client


def facts():
    """What workers must share with the machine that asks: Python, code and packages (dict)."""
    made = engine.environment("cpu")
    return {"Python": made["python"].rpartition(".")[0], "code": made["code"]} | made["packages"]


def _differing(ours, theirs):
    """How a worker differs, in words; "" if it does not."""
    names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    return ", ".join(f"{name} {theirs.get(name, 'missing')} (here {ours.get(name, 'missing')})" for name in names)


def _attempt(spec, root, device, expected):
    """(address of the worker, spec, record, failure); runs on a worker, which refuses to give other results."""
    from distributed import get_worker

    worker = get_worker()
    if differs := _differing(expected, facts()):
        raise SparseMTLError(f"{worker.name} is another version: {differs}; give all the same checkout and packages")
    if worker.state.nthreads != 1:
        raise SparseMTLError(f"{worker.name} does {worker.state.nthreads} runs at once: start it with --nthreads 1")
    return worker.address, *engine.attempts([spec], root, device)[0]
