"""A visit to the feature browser that remembers what went wrong on it."""

from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page


class Visit:
    """A page that remembers what went wrong on it."""

    def __init__(self, browser: Browser, address: str, **options) -> None:
        self.context = browser.new_context(viewport={"width": 1200, "height": 900}, base_url=address, **options)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on(
            "console", lambda message: self.complaints.append(message.text) if message.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.context.on("request", lambda request: self._note(request.url))

    def _note(self, url: str) -> None:
        if urlsplit(url).hostname != "127.0.0.1":
            self.elsewhere.append(url)
