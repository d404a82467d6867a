"""Which requests the page answers, without Gradio or a browser."""

import pytest

from flair_jax.show.guard import refused


def request(method: str = "POST", host: str = "127.0.0.1:7860", **headers: str) -> dict:
    named = [(b"host", host.encode())] if host else []
    named += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": method, "headers": named}


@pytest.mark.parametrize(
    "allowed",
    [
        request(),
        request(origin="http://127.0.0.1:7860", sec_fetch_site="same-origin", sec_fetch_mode="cors"),
        request(host="localhost:9000", origin="http://localhost:9000"),  # a forwarded port
        request(host="localhost", origin="https://localhost"),  # a proxy on this machine
        request("GET", sec_fetch_site="none", sec_fetch_mode="navigate", sec_fetch_dest="document"),
        request("GET", sec_fetch_site="cross-site", sec_fetch_mode="navigate", sec_fetch_dest="document"),
        request("GET", sec_fetch_site="same-origin", sec_fetch_mode="cors"),
    ],
    ids=str,
)
def test_programs_and_the_page_itself_are_answered(allowed: dict) -> None:
    assert refused(allowed) is None


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (request(host="page.example:7860"), 400),  # a name that was made to point here
        (request(host="127.0.0.1.example"), 400),
        (request(host=""), 400),
        (request(origin="http://site.example"), 403),
        (request(origin="null"), 403),
        (request(origin="http://127.0.0.1:8000"), 403),  # another program's page
        (request(origin="http://localhost:7860"), 403),
        (request("GET", origin="http://site.example"), 403),
        (request(sec_fetch_site="cross-site", sec_fetch_mode="no-cors"), 403),
        (request(sec_fetch_site="same-site", sec_fetch_mode="navigate", sec_fetch_dest="document"), 403),
        (request("GET", sec_fetch_site="cross-site", sec_fetch_mode="navigate", sec_fetch_dest="iframe"), 403),
        (request("GET", sec_fetch_site="cross-site", sec_fetch_mode="cors"), 403),
        ({**request(origin="http://site.example"), "type": "websocket"}, 403),
    ],
    ids=str,
)
def test_other_sites_are_refused(request_: dict, status: int) -> None:
    assert refused(request_)[0] == status


def test_two_hosts_or_origins_are_no_way_round() -> None:
    twice = request(origin="http://127.0.0.1:7860")
    twice["headers"].append((b"origin", b"http://site.example"))
    assert refused(twice)[0] == 403
    twice["headers"].append((b"host", b"site.example"))
    assert refused(twice)[0] == 400
