"""The page of `flair-jax demo-app` in a real browser (Chromium and its driver, from the system's packages)."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from shown import pictures
from tab import WAIT, Tab

from flair_jax.errors import FlairError
from flair_jax.show.app import serving
from flair_jax.show.page import MAX_BYTES

pytestmark = pytest.mark.browser


def test_upload_type_click_and_see_maps_that_depend_on_the_sentence(page, cat) -> None:
    page.upload(cat)
    page.until(lambda: "as the model sees it" in page.html())
    page.write("the face of a tabby cat\na rocket")
    page.one("#compare").click()
    first = page.maps(["the face of a tabby cat", "a rocket"])
    for kind in ("attention", "patches"):
        assert (first["a rocket"][kind] != first["the face of a tabby cat"][kind]).any()
    shown = page.one("#result").text
    numbers = r"text-conditioned\n-?\d+\.\d\d\nglobal\n-?\d+\.\d\d\nempty slot\n\d+\.\d %"
    assert len(re.findall(numbers, shown)) == 2, shown
    assert page.run("return document.querySelector('#result .map').naturalWidth") == 36, "the browser has decoded it"

    # Another sentence in its place, by typing over it.
    page.write("a red circle")
    page.one("#compare").click()
    second = page.maps(["a red circle"])
    assert (second["a red circle"]["attention"] != first["a rocket"]["attention"]).any()


def test_single_heads(page, cat) -> None:
    page.upload(cat)
    page.until(lambda: "as the model sees it" in page.html())
    page.write("a cat")
    page.one("#compare").click()
    mean = page.maps(["a cat"])["a cat"]
    page.one("#head input").click()
    page.until(lambda: page.one("li[aria-label='head 3']")).click()
    page.until(lambda: "attention, head 3" in page.html())
    head = page.maps(["a cat"])["a cat"]
    assert (mean["attention"] != head["attention"]).any()
    assert (mean["patches"] == head["patches"]).all()


def test_text_is_shown_as_it_was_written(page, cat) -> None:
    page.upload(cat)
    page.until(lambda: "as the model sees it" in page.html())
    text = "<b>bold</b> ${1 + 1} {{value}} & $x$"
    page.write(text)
    page.one("#compare").click()
    page.maps([text])
    assert page.one("#result .words").text == text


def test_a_broken_upload_says_so_and_a_good_one_after_it_is_shown(page, cat, tmp_path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(cat.read_bytes()[:9000])
    page.write("a cat")
    page.upload(broken)
    page.until(lambda: "cannot be read as a picture" in page.one("#result").text)
    page.one("#upload button[aria-label='Remove Image']").click()
    page.until(lambda: "cannot be read as a picture" not in page.one("#result").text)
    page.upload(cat)
    page.maps(["a cat"])


def test_an_upload_of_too_many_bytes_is_refused(page, url, tmp_path) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(bytes(MAX_BYTES + 1))
    page.upload(large)
    page.until(lambda: "exceed the maximum allowed size of 20.0 Mb" in page.one("body").text)
    assert "Choose a picture" in page.one("#result").text

    # By the server too, whatever asks it.
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    request = urllib.request.Request(f"{url}gradio_api/upload", head + large.read_bytes() + b"\r\n--x--\r\n")
    request.add_header("Content-Type", "multipart/form-data; boundary=x")
    with pytest.raises(urllib.error.HTTPError, match="413"):
        urllib.request.urlopen(request)


def test_requests_are_bounded_and_old_uploads_make_room(url, monkeypatch) -> None:
    """Also a request that does not say how long it is, and one of many files."""
    folder = Path(os.environ["GRADIO_TEMP_DIR"])

    def upload(*files: bytes, **headers: str) -> int:
        def parts() -> Iterator[bytes]:
            for number, data in enumerate(files):
                yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="%d.png"\r\n\r\n' % number
                yield data + b"\r\n"
            yield b"--x--\r\n"

        request = urllib.request.Request(f"{url}gradio_api/upload", parts(), headers)
        request.add_header("Content-Type", "multipart/form-data; boundary=x")
        try:
            with urllib.request.urlopen(request) as response:
                return response.status
        except urllib.error.HTTPError as error:
            return error.code if error.headers["x-frame-options"] == "DENY" else 0

    for number in range(12):
        assert upload(bytes([number]) * (19 << 20)) == 200
    kept = [path for path in folder.rglob("*") if path.is_file()]
    assert len(kept) == 10
    assert {path.open("rb").read(1)[0] for path in kept} == set(range(2, 12)), "the newest"
    assert upload(*[bytes([number]) * (1 << 20) for number in range(30)]) == 413
    assert upload(bytes(21 << 20)) == 413
    assert upload(*[bytes([number]) * 99 for number in range(70)]) == 200
    assert len([path for path in folder.rglob("*") if path.is_file()]) == 50
    assert upload(b"x", Origin="http://site.example") == 403
    assert not [path for path in folder.iterdir() if path.is_file()], "nothing incomplete stays"


def test_an_upload_that_made_room_for_others_is_asked_for_again(page, cat) -> None:
    page.upload(cat)
    page.until(lambda: "as the model sees it" in page.html())
    for path in Path(os.environ["GRADIO_TEMP_DIR"]).rglob("chelsea.png"):
        path.unlink()
    page.write("a cat")
    page.one("#compare").click()
    page.until(lambda: "the picture is not kept any more; drop it again" in page.one("#result").text)


def test_only_uploads_are_read(url, cat) -> None:
    """Whatever file a request names."""
    with urllib.request.urlopen(f"{url}config") as response:
        asked = [each["id"] for each in json.load(response)["dependencies"] if len(each["inputs"]) == 3]
    assert len(asked) == 3
    for number in asked:
        file = {"path": str(cat), "meta": {"_type": "gradio.FileData"}}
        data = {"data": [file, "a cat", "mean of the heads"], "fn_index": number, "session_hash": f"s{number}"}
        request = urllib.request.Request(f"{url}gradio_api/queue/join", json.dumps(data).encode())
        request.add_header("Content-Type", "application/json")
        urllib.request.urlopen(request).close()
        with urllib.request.urlopen(f"{url}gradio_api/queue/data?session_hash=s{number}") as events:
            message = next(line for line in events if b"process_completed" in line)
        assert json.loads(message.partition(b"data: ")[2])["output"] == {"error": None}


def test_the_search_tab(page, cat) -> None:
    page.until(lambda: page.one("button[role=tab]:nth-of-type(2)")).click()
    page.until(lambda: page.one("#query textarea, #query input"))
    page.write("a cat", "#query textarea, #query input")
    page.one("#search").click()
    page.until(lambda: "chelsea.png" in page.html("#found"))
    assert list(pictures(page.html("#found"))) == [str(cat)]


def test_nothing_is_asked_of_other_machines(page, driver, url, cat) -> None:
    driver.get_log("performance")
    driver.get(url)
    page.upload(cat)
    page.write("a cat")
    page.one("#compare").click()
    page.maps(["a cat"])
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    assert any(address.startswith(url) for address in asked)
    assert {address for address in asked if not address.startswith((url, "data:", "blob:"))} == set()
    with urllib.request.urlopen(url) as response:
        assert "default-src 'self'" in response.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
        assert response.headers["x-frame-options"] == "DENY"
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(urllib.request.Request(url, headers={"Host": "elsewhere.example"}))


def test_the_command_serves_and_removes_uploads_at_its_end(driver, small_checkpoint, cat, tmp_path) -> None:
    command = [Path(sys.executable).with_name("flair-jax"), "demo-app", "--checkpoint", small_checkpoint]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path)}
    ) as run:
        try:
            address = run.stdout.readline().split()[0]
            assert address.startswith("http://127.0.0.1:")
            driver.get(address)
            page = Tab(driver)
            page.upload(cat)
            page.until(lambda: "as the model sees it" in page.html())
            assert [path for path in tmp_path.rglob("*") if path.name == "chelsea.png"], "in the folder for uploads"
            assert not page.one("button[role=tab]:nth-of-type(2)"), "no search without an index"
            port = address.rstrip("/").rpartition(":")[2]
            taken = subprocess.run([*command, "--port", port], capture_output=True, text=True, check=False)
            assert taken.returncode == 2
            assert f"port {port} is taken; choose another with --port" in taken.stderr
            driver.get("about:blank")
        finally:
            run.send_signal(signal.SIGTERM)
        assert run.wait(timeout=WAIT) == 0
    assert not list(tmp_path.iterdir())


def test_bad_input_is_one_sentence(tmp_path, monkeypatch, capsys) -> None:
    from flair_jax.cli import main

    assert main(["demo-app", "--checkpoint", str(tmp_path / "gone")]) == 2
    assert "gone: no checkpoint here" in capsys.readouterr().err
    for port in ("0", "65536", "http"):
        assert main(["demo-app", "--checkpoint", "x", "--port", port]) == 2
        assert f"'{port}' is not a port: a whole number from 1 to 65535" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "gradio", None)
    with (
        pytest.raises(FlairError, match="needs Gradio, in an environment of its own: .*pip install"),
        serving(None),
    ):
        pass
