"""Folders of pictures: broken ones found, copies made smaller, lists fetched from a server that misbehaves."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import ExifTags, Image

from graftwork.api import OptionError
from graftwork_vision import download_images, get_image_files, resize_images, verify_images
from graftwork_vision.command import pictures


def encoded(picture, kind: str = "JPEG", **options) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(path) -> Image.Image:
    with Image.open(path) as picture:
        picture.load()
        return picture


@pytest.fixture
def folder(tmp_path, photo):
    root = tmp_path / "photos"
    for name, size in (("cat/large.jpg", (90, 160)), ("cat/small.png", (20, 30)), ("dog/tall.png", (120, 40))):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        photo(*size).save(root / name)
    return root


class TestVerify:
    def test_broken_ones_are_named_with_the_reason(self, folder):
        (folder / "cat" / "half.jpg").write_bytes((folder / "cat" / "large.jpg").read_bytes()[:900])
        (folder / "dog" / "page.png").write_text("<html>not found</html>")
        (folder / "dog" / "none.gif").touch()
        found = verify_images(get_image_files(folder), progress=False)
        assert {path.name: reason.split(" (")[0] for path, reason in found.items()} == {
            "half.jpg": "truncated or broken picture",
            "page.png": "not a picture Pillow can read",
            "none.gif": "the file is empty",
        }

    def test_the_command_lists_and_deletes(self, folder):
        (folder / "dog" / "page.png").write_text("<html>not found</html>")
        ran = CliRunner().invoke(pictures, ["verify", str(folder), "--delete"])
        assert ran.exit_code == 0, ran.output
        assert "4 pictures, 1 cannot be read and were deleted" in ran.output
        assert not (folder / "dog" / "page.png").exists()


class TestResize:
    def test_sides_formats_and_folders(self, folder, tmp_path):
        report = resize_images(folder, max_size=48, dest=tmp_path / "small", progress=False)
        sizes = {p.relative_to(tmp_path / "small").as_posix(): opened(p).size for p in report.written}
        assert sizes == {"cat/large.jpg": (48, 27), "cat/small.png": (30, 20), "dog/tall.png": (16, 48)}
        assert (tmp_path / "small" / "cat" / "small.png").read_bytes() == (folder / "cat" / "small.png").read_bytes()
        assert (tmp_path / "small" / "cat" / "large.jpg").read_bytes().startswith(b"\xff\xd8")
        shrunk = np.asarray(opened(tmp_path / "small" / "dog" / "tall.png").convert("RGB")).astype(int)
        assert abs(shrunk[0, 0] - [0, 0, 0]).max() < 12
        assert abs(shrunk[-1, -1] - [255, 255, 0]).max() < 12

    def test_it_goes_on_where_it_was_stopped(self, folder, tmp_path):
        first = resize_images(folder, max_size=48, dest=tmp_path / "small", progress=False)
        first.written[0].unlink()
        second = resize_images(folder, max_size=48, dest=tmp_path / "small", progress=False)
        assert (second.written, second.already) == (first.written[:1], 2)
        assert (
            len(resize_images(folder, max_size=24, dest=tmp_path / "small", resume=False, progress=False).written) == 3
        )
        assert max(opened(tmp_path / "small" / "dog" / "tall.png").size) == 24

    def test_turned_photos_stand_upright_and_transparency_stays(self, tmp_path, photo):
        (tmp_path / "in").mkdir()
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        photo(60, 100).save(tmp_path / "in" / "turned.jpg", exif=exif)
        Image.new("RGBA", (100, 50), (1, 2, 3, 77)).save(tmp_path / "in" / "glass.png")
        resize_images(tmp_path / "in", max_size=50, dest=tmp_path / "out", progress=False)
        assert opened(tmp_path / "out" / "turned.jpg").size == (30, 50)
        assert opened(tmp_path / "out" / "glass.png").getpixel((3, 3))[3] == 77

    def test_failures_are_said_and_leave_no_file(self, folder, tmp_path):
        (folder / "cat" / "half.jpg").write_bytes((folder / "cat" / "large.jpg").read_bytes()[:900])
        report = resize_images(folder, max_size=48, dest=tmp_path / "small", progress=False)
        assert len(report.written) == 3
        assert [path.rsplit("/", 1)[1] for path in report.failed] == ["half.jpg"]
        assert "3 written, 0 there already, 1 failed" in str(report)
        assert sorted(p.name for p in (tmp_path / "small" / "cat").iterdir()) == ["large.jpg", "small.png"]

    def test_a_copy_inside_the_source_is_not_copied_again(self, folder):
        assert len(resize_images(folder, max_size=48, dest=folder / "small", progress=False).written) == 3
        assert resize_images(folder, max_size=48, dest=folder / "small", progress=False).already == 3

    def test_what_makes_no_sense_is_refused(self, folder):
        with pytest.raises(OptionError, match="max_size"):
            resize_images(folder, max_size=0, dest=folder / "x")
        with pytest.raises(OptionError, match="dest is the source"):
            resize_images(folder, max_size=9, dest=folder)
        ran = CliRunner().invoke(pictures, ["resize", str(folder), str(folder / "x"), "--max-size", "0"])
        assert ran.exit_code == 2

    def test_the_command(self, folder, tmp_path):
        ran = CliRunner().invoke(pictures, ["resize", str(folder), str(tmp_path / "small"), "--max-size", "48"])
        assert (ran.exit_code, "3 written" in ran.output) == (0, True), ran.output


class Server(ThreadingHTTPServer):
    daemon_threads = True
    asked: dict[str, int]


class Handler(BaseHTTPRequestHandler):
    """Serve pictures well and badly."""

    server: Server

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.strip("/")
        self.server.asked[name] = self.server.asked.get(name, 0) + 1
        body = encoded(Image.new("RGB", (32, 24), (200, 10, 10)), "PNG" if name == "png" else "JPEG")
        if name == "missing" or (name == "flaky" and self.server.asked[name] == 1):
            self.send_error(404 if name == "missing" else 503)
            return
        if name == "slow":
            time.sleep(1.0)
        body = {"page": b"<html>hello</html>", "huge": b"\0" * 5000, "endless": b"\0" * 5000}.get(name, body)
        self.send_response(200)
        if name != "endless":
            self.send_header("Content-Length", str(len(body) + (50 if name == "cut" else 0)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server():
    made = Server(("127.0.0.1", 0), Handler)
    made.asked = {}
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


class TestDownload:
    def fetch(self, server, dest, names, **options):
        base = f"http://127.0.0.1:{server.server_port}/"
        urls = [name if ":" in name else base + name for name in names]
        report = download_images(dest, urls, progress=False, timeout=options.pop("timeout", 5.0), **options)
        return report, {url.removeprefix(base): reason for url, reason in report.failed.items()}

    def test_pictures_are_kept_and_the_rest_is_counted_and_said(self, server, tmp_path):
        names = ["a", "png", "missing", "page", "huge", "endless", "file:///etc/passwd", "flaky"]
        report, failed = self.fetch(server, tmp_path, names, max_bytes=2000)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["00000000.jpg", "00000001.png", "00000007.jpg"]
        assert sorted(report.written) == sorted(tmp_path.iterdir())
        assert failed["missing"].startswith("the server answered 404")
        assert "not a picture" in failed["page"]
        assert "larger than the limit of 2,000 bytes" in failed["huge"]
        assert "larger than the limit" in failed["endless"]
        assert "http://" in failed["file:///etc/passwd"]
        assert server.asked == {"a": 1, "png": 1, "missing": 1, "page": 1, "huge": 1, "endless": 1, "flaky": 2}

    def test_what_is_slow_or_cut_off_is_asked_again_and_then_given_up(self, server, tmp_path):
        _, failed = self.fetch(server, tmp_path, ["slow", "cut"], timeout=0.3, retries=1)
        assert "timed out" in failed["slow"].lower()
        assert "(asked 2 times)" in failed["slow"]
        assert "bytes" in failed["cut"]
        assert server.asked == {"slow": 2, "cut": 2}
        assert list(tmp_path.iterdir()) == []

    def test_what_is_there_is_not_fetched_again(self, server, tmp_path):
        self.fetch(server, tmp_path, ["a", "missing", "png"])
        report, _ = self.fetch(server, tmp_path, ["a", "missing", "png", "b"])
        assert (report.already, [p.name for p in report.written]) == (2, ["00000003.jpg"])
        assert server.asked == {"a": 1, "missing": 2, "png": 1, "b": 1}

    def test_no_more_than_asked_for(self, server, tmp_path):
        report, _ = self.fetch(server, tmp_path, ["a", "b", "c"], max_pics=2)
        assert len(report.written) == 2
        assert "c" not in server.asked

    def test_nobody_there(self, tmp_path):
        report = download_images(tmp_path, ["http://127.0.0.1:9/x.jpg"], retries=0, progress=False)
        assert "refused" in report.failed["http://127.0.0.1:9/x.jpg"].lower()

    @pytest.mark.parametrize("options", [{"max_pics": 0}, {"timeout": 0.0}, {"retries": -1}, {"workers": 0}])
    def test_impossible_options(self, tmp_path, options):
        with pytest.raises(OptionError):
            download_images(tmp_path, ["http://127.0.0.1:9/x.jpg"], **options)

    def test_the_command(self, server, tmp_path):
        listed = tmp_path / "urls.txt"
        listed.write_text(f"http://127.0.0.1:{server.server_port}/a\n\n")
        ran = CliRunner().invoke(pictures, ["download", str(listed), str(tmp_path / "out")])
        assert (ran.exit_code, "1 written" in ran.output) == (0, True), ran.output
