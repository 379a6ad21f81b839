"""The LLM settings: profiles, what is laid over them, what is refused."""

import pytest

from recbole_edt.augment.llm import LLMSettings
from recbole_edt.augment.llm.costs import Usage
from recbole_edt.augment.llm.settings import Prices
from recbole_edt.errors import ConfigError

LOCAL = ["ollama", "vllm", "llamacpp", "lmstudio"]


@pytest.mark.parametrize("profile", ["deepseek", "openai", *LOCAL])
def test_a_profile_names_both_endpoints(profile):
    settings = LLMSettings.load(profile)
    assert settings.chat is not None and settings.embedding is not None
    assert bool(settings.chat.key_env) == (profile not in LOCAL)


@pytest.mark.parametrize(
    ("profile", "overrides", "said"),
    [
        ("deepsek", {}, "no LLM profile or file 'deepsek', did you mean 'deepseek'"),
        ("vllm", {"retrys": 1}, "unknown key 'retrys', did you mean 'retries'"),
        ("vllm", {"chat.prices.promt": 1}, "unknown key 'chat.prices.promt', .* 'prompt'"),
        ("vllm", {"chat.base_url": "localhost"}, "base_url must be an http"),
        (
            "vllm",
            {"chat.base_url": "http://localhost:80000/v1"},
            "base_url .* port: Port out of range 0-65535",
        ),
        ("vllm", {"chat.base_url": "http://192.168.1.300/v1"}, "base_url .* host .*300"),
        ("vllm", {"chat": 3}, "chat must be a mapping, not '3'"),
    ],
)
def test_what_is_not_known_is_refused_in_one_line(profile, overrides, said):
    with pytest.raises(ConfigError, match=said) as caught:
        LLMSettings.load(profile, overrides)
    assert "\n" not in str(caught.value)


def test_an_endpoint_that_a_profile_lacks_is_named():
    with pytest.raises(ConfigError, match="name no embedding endpoint"):
        LLMSettings.load("vllm", {"embedding": None}).endpoint("embedding")


@pytest.mark.parametrize("content", ["[1, 2]", "a: ["])
def test_a_file_that_is_no_profile_is_refused(tmp_path, content):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        LLMSettings.load(path)


def test_tokens_that_the_vendor_had_seen_have_their_own_price():
    """(1000 - 400) * 2 + 400 * 0.5 + 100 * 8 = 2200 dollars per million tokens."""
    prices = Prices(prompt=2.0, cached=0.5, completion=8.0)
    assert prices.dollars(1000, 400, 100) == pytest.approx(2200 / 1e6)
    assert Prices(prompt=2.0).dollars(1000, 400) == pytest.approx(2000 / 1e6)


@pytest.mark.parametrize(
    "details", [{"prompt_cache_hit_tokens": 400}, {"prompt_tokens_details": {"cached_tokens": 400}}]
)
def test_usage_is_read_as_each_vendor_writes_it(details):
    payload = {"usage": {"prompt_tokens": 1000, "completion_tokens": 100, **details}}
    prices = Prices(prompt=2.0, cached=0.5, completion=8.0)
    assert Usage.reported(payload, prices, "", "") == (1000, 400, 100, pytest.approx(0.0022))


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": None}, "many"])
def test_usage_that_is_not_reported_is_estimated(usage):
    """Four bytes to a token and 16 tokens around: 40 bytes are 26 tokens, 8 are 18."""
    found = Usage.reported({"usage": usage}, Prices(), "x" * 40, "x" * 8)
    assert found == (26, 0, 18, 0)
