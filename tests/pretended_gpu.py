"""Runs of both studies on a device that is not there: values lie on the CPU, but as on a GPU tensors must not be mixed.

    python pretended_gpu.py LIBRARY [METHOD ...]    with a copy of the library in which "cuda" reads "gpu"

It prints one JSON object: metrics of the runs by label, and what failed. What it cannot show: kernels that a
real GPU lacks or rounds otherwise, its memory, its speed.
"""

import contextlib
import json
import sys
import tempfile
import types

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "gpu"
# operations for which PyTorch takes tensors of both devices
MIXED = {"index", "index_put", "index_put_", "_index_put_impl_", "copy_", "_to_copy", "lift_fresh"}
LOW, HIGH = ("conv2d", "linear", "matmul", "bmm", "mm", "addmm"), ("cosine_similarity", "cross_entropy_loss")
NOISE = torch.Generator().manual_seed(0)  # the device's own, as on a GPU


class OnDevice(torch.Tensor):
    """A tensor of the device, around the CPU tensor `inner`."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        """Same shape, strides and dtype as the inner tensor."""
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.size(), device=torch.device(NAME, 0), **layout)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, operation, _, args=(), kwargs=None):
        """Every operation on such a tensor."""
        return computed(operation, args, kwargs or {})

    @property
    def data(self):
        """The values without history, shared."""
        return OnDevice(self.inner)

    @data.setter
    def data(self, value):
        self.inner = value.inner

    def tolist(self):
        """As on a GPU, this copies."""
        return self.detach().cpu().tolist()

    def numpy(self, *_, **__):
        """As on a GPU, this is refused."""
        raise TypeError("can't convert a tensor of the device to numpy: use Tensor.cpu()")

    __array__ = numpy


class Everywhere(TorchDispatchMode):
    """Operations without a tensor of the device: some make one."""

    def __torch_dispatch__(self, operation, _, args=(), kwargs=None):
        """See `computed`."""
        return computed(operation, args, kwargs or {})


def computed(operation, args, kwargs):
    """Result of an operation: on the CPU's values, given back as tensors of the device that the operation asks for."""
    name = operation._schema.name.removeprefix("aten::")
    tensors = [x for x in tree_leaves((args, kwargs)) if is_tensor(x)]
    here, asked = [isinstance(x, OnDevice) for x in tensors], kwargs.get("device")
    to = None if asked is None else torch.device(asked).type
    if not any(here) and to != NAME:
        return operation(*args, **kwargs)
    for x, on_device in zip(tensors, here, strict=True):
        if any(here) and not on_device and x.dim() and name not in MIXED:
            raise RuntimeError(f"{operation}: a CPU tensor of shape {tuple(x.shape)} beside tensors of the device")
    if name.startswith("index") and not here[0]:
        raise RuntimeError(f"{operation}: indices on the device into a CPU tensor")
    known = {id(x.inner): x for x in tensors if isinstance(x, OnDevice)}
    args, kwargs = tree_map(lambda x: x.inner if isinstance(x, OnDevice) else x, (args, kwargs))
    if asked is not None:
        kwargs = {**kwargs, "device": "cpu"}
    with own_noise(operation, kwargs):
        found = tree_map(resolved, operation(*args, **kwargs))

    def given_back(x):
        if not is_tensor(x) or to == "cpu" or (name == "copy_" and not here[0]):
            return x
        return known.get(id(x)) if operation._schema.is_mutable and id(x) in known else OnDevice(x)

    return tree_map(given_back, found)


def resolved(x):
    """The same numbers without a bit that says conjugate: a wrapper has none, so nobody would look for it."""
    return torch.conj_physical(x.conj()) if is_tensor(x) and x.is_conj() else x


def is_tensor(x):
    """Whether it is a tensor, of the device or not."""
    return isinstance(x, torch.Tensor)


@contextlib.contextmanager
def own_noise(operation, kwargs):
    """Random numbers of the device come from `NOISE` where no generator is given."""
    if torch.Tag.nondeterministic_seeded not in operation.tags or kwargs.get("generator") is not None:
        yield
        return
    before = torch.get_rng_state()
    torch.default_generator.set_state(NOISE.get_state())
    yield
    NOISE.set_state(torch.default_generator.get_state())
    torch.default_generator.set_state(before)


def register():
    """Tell PyTorch of the device and of what autocast does there."""
    backend = types.ModuleType(f"torch.{NAME}")
    backend.device_count, backend.is_available, backend.is_initialized = lambda: 1, lambda: True, lambda: True
    backend._is_in_bad_fork, backend._lazy_init, backend.current_device = lambda: False, lambda: None, lambda: 0
    backend.get_device_name, backend.synchronize = lambda _=None: "a pretended GPU", lambda _=None: None
    backend.empty_cache, backend.OutOfMemoryError = lambda: None, torch.cuda.OutOfMemoryError
    backend.get_rng_state = lambda _=None: NOISE.get_state()
    backend.set_rng_state = lambda state, _=None: NOISE.set_state(state)
    backend.manual_seed = backend.manual_seed_all = NOISE.manual_seed
    backend.get_amp_supported_dtype = lambda: [torch.bfloat16]
    backend.default_generators, backend.current_stream = (NOISE,), lambda _=None: None
    torch.cuda.get_rng_state, torch.cuda.set_rng_state = backend.get_rng_state, backend.set_rng_state  # `fork_rng`
    _setup_privateuseone_for_python_backend(rename=NAME, backend_module=backend)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    rest = torch.library.Library("_", "IMPL")
    rest.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    casts = torch.library.Library("aten", "IMPL")
    for names, dtype in ((LOW, torch.bfloat16), (HIGH, torch.float32)):
        for name in names:
            casts.impl(name, cast_to(dtype, getattr(torch.ops.aten, name).default), "AutocastPrivateUse1")
    plain_save = torch.save
    torch.save = lambda value, file: plain_save(tree_map(lambda x: getattr(x, "inner", x), value), file)
    return rest, casts  # registered for as long as they live


def cast_to(dtype, operation):
    """The operation as autocast runs it."""
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def run(*args, **kwargs):
        def cast(x):
            return x.to(dtype) if is_tensor(x) and x.dtype in (torch.float32, torch.bfloat16) else x

        with torch._C._ExcludeDispatchKeyGuard(keys):
            return operation(*tree_map(cast, args), **tree_map(cast, kwargs))

    return run


def runs(*methods):
    """Small specs of both studies: EEG methods in one stack, and the vision model under its penalties and protocols."""
    from sparsemtl.studies import shin2023, upadhyay2023

    small = {"subjects": (1,), "seeds": (0,), "sparsities": (0.4,), "epochs": 2, "trials_per_class": 6}
    if methods:
        return shin2023.specs("quick", methods=methods, **small)
    found = shin2023.specs("quick", methods=[m for m in shin2023.METHODS if m != "csp-lda"], **small)
    found += shin2023.specs("quick", methods=("or", "rigl"), backbone="shallow", **small)
    once = {"seeds": (0,), "epochs": 2}
    for lam, choice in ((0.0, {}), (1e-5, {"protocol": "released"}), (1e-2, {"penalty": "l1"})):
        found += upadhyay2023.specs("quick", (upadhyay2023.ALL_NYU,), (lam,), **once, **choice)
    return found + upadhyay2023.specs("quick", ("seg+male",), (1e-3,), "celebamask", **once)


def main(library, *methods):
    """Run everything and print what came out."""
    sys.path.insert(0, library)
    kept = register()
    from sparsemtl.engine import execute
    from sparsemtl.records import Store

    with tempfile.TemporaryDirectory() as folder, Everywhere():
        outcome = execute(runs(*methods), Store(folder), device=NAME, progress=False)
    results = {r.spec.label(): {"device": r.run["device"], **r.result["metrics"]} for r in outcome.records.values()}
    print(json.dumps({"results": results, "failures": outcome.failures}))
    del kept


if __name__ == "__main__":
    main(*sys.argv[1:])
