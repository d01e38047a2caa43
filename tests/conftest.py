"""Shared fixtures: tiny random subjects of several architectures, the real one where it is at hand, no network."""

from __future__ import annotations

import functools
import importlib.metadata
import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before anything imports the Hugging Face libraries: they read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Runs of tests share no measurements, fixtures of a whole module included.
os.environ["AFTERTUNE_STORE"] = "off"

import hypothesis
import pytest
import pytest_socket

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from aftertune.model import Subject

# Inspect asks for it with every task that it runs: half a second each time, for an answer that does not change.
importlib.metadata.packages_distributions = functools.cache(importlib.metadata.packages_distributions)

ARCHITECTURES = ("llama", "gpt2", "qwen2", "mixtral")
DEFAULT_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\n" + DEFAULT_SYSTEM + "<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_CORPUS = (
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    "The doctor said that the patient should take the medicine with water in the morning.",
    "What should I do when the car makes a strange noise? You should have it looked at.",
    "system user assistant the answer and the question that they asked about the money",
    "Take care of yourself, and ask someone who knows about it before you decide.",
)

TinyFolder = Callable[[str], Path]
TinySubject = Callable[[str], "Subject"]


# The same examples on every machine, however slow it is.
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None)
hypothesis.settings.load_profile("steady")


def pytest_configure(config: pytest.Config) -> None:
    """One thread where the caller asked for one: torch's pools do not all read the variable."""
    if os.environ.get("OMP_NUM_THREADS") == "1":
        import torch

        torch.set_num_threads(1)


# --- no network -----------------------------------------------------------------------------------------


_REACHED_OUT: list[str] = []
_TRUE_GETADDRINFO = socket.getaddrinfo
_TRUE_CONNECT_EX = socket.socket.connect_ex


def _is_local(host: object) -> bool:
    if host is None or host in ("", b"", "localhost", b"localhost"):
        return True
    text = host.decode() if isinstance(host, bytes) else str(host)
    try:
        return ipaddress.ip_address(text.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _guarded_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
    if not _is_local(host):
        _REACHED_OUT.append(f"looked up {host}")
        raise pytest_socket.SocketConnectBlockedError(["loopback"], str(host))
    return _TRUE_GETADDRINFO(host, *args, **kwargs)


def _guard() -> None:
    pytest_socket.socket_allow_hosts(["127.0.0.0/8", "::1"], allow_unix_socket=True)
    guarded = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        try:
            guarded(self, address)
        except pytest_socket.SocketConnectBlockedError:
            _REACHED_OUT.append(f"connected to {address}")
            raise

    def connect_ex(self: socket.socket, address: Any) -> int:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
            connect(self, address)
        return _TRUE_CONNECT_EX(self, address)

    socket.socket.connect = connect  # type: ignore[method-assign,assignment]
    socket.socket.connect_ex = connect_ex  # type: ignore[method-assign,assignment]
    socket.getaddrinfo = _guarded_getaddrinfo


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Only loopback and Unix sockets, for session fixtures too; pytest-socket lifts it after each test."""
    _REACHED_OUT.clear()
    _guard()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test that reached out even where the code under test swallowed the refusal."""
    yield
    if _REACHED_OUT:
        pytest.fail(f"the test reached out to the network: {', '.join(_REACHED_OUT)}", pytrace=False)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Lift what pytest-socket does not know of."""
    socket.socket.connect_ex = _TRUE_CONNECT_EX  # type: ignore[method-assign]
    socket.getaddrinfo = _TRUE_GETADDRINFO


@pytest.fixture
def reached_out() -> list[str]:
    """What this test tried to reach; a test of the guard itself clears it."""
    return _REACHED_OUT


# --- subjects -------------------------------------------------------------------------------------------


def build_tokenizer() -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer that can spell anything, with SmolLM2's special tokens and template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token="<|im_end|>",
        clean_up_tokenization_spaces=False,
        chat_template=CHATML,
    )


def build_model(architecture: str, vocabulary: int, **changes: Any) -> Any:
    """A tiny random causal LM with logits that are far from flat."""
    import torch
    import transformers

    common: dict[str, Any] = {
        "vocab_size": vocabulary,
        "initializer_range": 0.2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    decoder = {
        **common,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    }
    settings: dict[str, dict[str, Any]] = {
        "llama": {**decoder, "tie_word_embeddings": False},
        "gpt2": {**common, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
        "qwen2": {**decoder, "tie_word_embeddings": True},
        "mixtral": {**decoder, "num_local_experts": 4, "num_experts_per_tok": 2},
        "mistral": {**decoder, "sliding_window": 16},
        "bloom": {**common, "hidden_size": 32, "n_layer": 2, "n_head": 4},
        "mamba": {**common, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
        "gpt_neo": {
            **common,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 32,
            "max_position_embeddings": 512,
        },
        "llama4_text": {
            **decoder,
            "head_dim": 8,
            "intermediate_size_mlp": 64,
            "num_local_experts": 2,
            "attention_chunk_size": 32,
            "no_rope_layers": [1, 0],
        },
    }
    torch.manual_seed(sorted(settings).index(architecture))
    config = transformers.AutoConfig.for_model(architecture, **{**settings[architecture], **changes})
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Zero biases would hide a layer that leaves them out.
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
    return model.eval()


@pytest.fixture(scope="session", autouse=True)
def quiet_libraries() -> None:
    """No weight-loading bars and advice in the test output."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer of all tiny subjects."""
    return build_tokenizer()


@pytest.fixture(scope="session")
def tiny_model(tiny_tokenizer: PreTrainedTokenizerBase) -> Callable[..., Any]:
    """A fresh tiny model by architecture, with changes to its configuration; for `as_subject`."""

    def model(architecture: str, **changes: Any) -> Any:
        return build_model(architecture, len(tiny_tokenizer), **changes)

    return model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerBase) -> TinyFolder:
    """Checkpoint folder of a tiny model by architecture, made once. Not to be written to."""
    made: dict[str, Path] = {}

    def folder(architecture: str) -> Path:
        if architecture not in made:
            path = tmp_path_factory.mktemp("tiny") / architecture
            build_model(architecture, len(tiny_tokenizer)).save_pretrained(path)
            tiny_tokenizer.save_pretrained(path)
            made[architecture] = path
        return made[architecture]

    return folder


@pytest.fixture(scope="session")
def tiny_subject(tiny_folder: TinyFolder) -> TinySubject:
    """A freshly loaded tiny subject by architecture; the test may do to it what it likes."""

    def subject(architecture: str) -> Subject:
        from aftertune.model import load

        return load(tiny_folder(architecture))

    return subject


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Folder of the embedded subject, for tests marked ``real``; never fetched by a test."""
    from aftertune.model import cache_root
    from aftertune.model._embedded import WHEEL_SHA256

    override = os.environ.get("AFTERTUNE_SMOLLM2")
    folder = Path(override) if override else cache_root() / f"smollm2-135m-instruct-{WHEEL_SHA256[:8]}"
    if not (folder / "model.safetensors").exists():
        pytest.skip(f"the embedded subject is not at {folder}; fetch it once, or set AFTERTUNE_SMOLLM2")
    return folder


@pytest.fixture(autouse=True)
def private_cache(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Conversions of tests go to a throw-away cache; tests marked ``real`` keep the user's."""
    if request.node.get_closest_marker("real") is None:
        monkeypatch.setenv("AFTERTUNE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
