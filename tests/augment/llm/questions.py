"""Questions to a chat model, as the stages ask them."""

from recbole_edt.augment.llm import ChatRequest
from recbole_edt.augment.prompts import Text, generated_items


def request(user=0, n=3):
    """Ask for ``n`` items."""
    samples = f"Samples of user {user}:\n- red shirt\n- socks"
    asked = f"{samples}\n\nWrite exactly {n} new items: " + '{"items": []}'
    return ChatRequest("JSON", asked, generated_items(["title"]), n=n, fault_of=fault_of)


def fault_of(item):
    return "copy" if item["title"] == "Seen" else ""


def profile(user=0):
    return ChatRequest("JSON", f"What user {user} likes:\n- red cotton shirt\n", Text)


def mixed(n):
    return [make(user) for user in range(n // 2) for make in (request, profile)]
