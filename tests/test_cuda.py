"""The promises of every operator on a GPU, where there is one: `pytest -m cuda`."""

import pytest
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import straightthrough as st
from straightthrough import testing
from straightthrough.core import kernels

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.filterwarnings("ignore:.*([Dd]eterministic|nondeterministic)"),
]

DEVICE = "cuda"
CASES = testing.cases(DEVICE) if torch.cuda.is_available() else []
MATRIX = [(check, case) for case in CASES for check in testing.applicable(case)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]

CALLS = {
    "categorical": lambda x, seed: st.categorical(x, seed=seed),
    "gumbel": lambda x, seed: st.categorical(x, "gumbel", seed=seed),
    "bernoulli": lambda x, seed: st.bernoulli(x, seed=seed),
    "hard_concrete": lambda x, seed: st.hard_concrete(x, seed=seed),
    "sign": lambda x, seed: st.sign(x),
    "topk": lambda x, seed: st.topk(x, 3),
}
BY_CALL = pytest.mark.parametrize("name", CALLS)


@pytest.fixture(autouse=True)
def poisoned_memory():
    """As everywhere; but torch may add in any order, as specifications do on the GPU."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def x():
    return torch.randn(4096, 64, device=DEVICE, requires_grad=True)


@pytest.fixture
def seed():
    return torch.zeros((), dtype=torch.int64, device=DEVICE)


def both_ways(name, x, seed):
    """Value and gradient of a call."""
    y = CALLS[name](x, seed)
    return y.detach(), *torch.autograd.grad(y, x, incoming(y))


def incoming(y):
    """Another gradient a class."""
    return torch.arange(y.shape[-1], dtype=y.dtype, device=y.device).expand(y.shape).contiguous()


@pytest.mark.parametrize(("check", "case"), MATRIX, ids=lambda x: getattr(x, "__name__", str(x)))
def test_conformance(check, case):
    check(case)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_agree_with_the_reference(case, dtype):
    inputs = case.input(30, dtype=dtype)
    grad = case.incoming(inputs)
    outputs, gradients = case.backward(inputs, grad)
    with kernels.disabled():
        others, found = case.backward(inputs, grad)
    torch.testing.assert_close([*outputs, *gradients], [*others, *found], equal_nan=True)


@BY_CALL
def test_a_gpu_draws_what_the_cpu_draws(name):
    x = torch.randn(65_536, 64)
    here, there = CALLS[name](x, 7), CALLS[name](x.to(DEVICE), 7).cpu()
    assert (~torch.isclose(here, there)).any(-1).float().mean() <= 1e-5


@BY_CALL
def test_a_call_is_a_launch_each_way_and_waits_for_nothing(name, x, seed):
    torch.use_deterministic_algorithms(False)  # which would fill what is fresh
    both_ways(name, x, seed)
    grad = torch.ones_like(x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            y = CALLS[name](x, seed)
            torch.autograd.grad(y, x, grad)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    launched = [event.name for event in seen.events() if event.device_type == DeviceType.CUDA]
    assert len(launched) == 2, launched


@BY_CALL
def test_a_captured_call_is_replayed_with_another_seed(name, x, seed):
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # which compiles the kernels
        both_ways(name, x, seed)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = both_ways(name, x, seed)
    for number in (0, 7):
        seed.fill_(number)
        graph.replay()
        torch.testing.assert_close(captured, both_ways(name, x, seed), rtol=0, atol=0)


@BY_CALL
def test_compiled_with_graphs_of_cuda(name, x, seed):
    torch.compiler.reset()
    compiled = torch.compile(lambda x, seed: CALLS[name](x, seed), mode="reduce-overhead")
    for number in range(4):
        seed.fill_(number)
        y = compiled(x, seed)
        gradients = torch.autograd.grad(y, x, incoming(y))
        torch.testing.assert_close((y.detach(), *gradients), both_ways(name, x, seed))
