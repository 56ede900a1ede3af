"""A browser without a screen, that opens pages from files and tells what happens in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from debian import require_packages

PATIENCE = 120_000  # milliseconds, on a busy machine
LOCAL = ("file:", "data:", "blob:")


@contextmanager
def chromium() -> Iterator:
    """Debian's Chromium; skips the test where it cannot be had."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install 'hvd_imagenet[dev]'")
    require_packages("chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """A page, as long as it is in a ``with``.

    Attributes:
        page: playwright's.
        said: what the console, errors and dialogs have said.
        requests: addresses outside of the page that it has asked for.
    """

    def __init__(self, browser, file: Path, width: int = 1400, scheme: str = "light"):
        phone = width < 500
        self._context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, has_touch=phone, is_mobile=phone
        )
        self._context.set_default_timeout(PATIENCE)
        self.page = self._context.new_page()
        self.said: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("dialog", self._dismissed)
        self.page.on("request", self._requested)
        self.page.goto(file.as_uri())

    def _dismissed(self, dialog) -> None:
        self.said.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _requested(self, request) -> None:
        if not request.url.startswith(LOCAL):
            self.requests.append(request.url)

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_) -> None:
        self._context.close()
