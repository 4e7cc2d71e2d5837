"""The service's page: its files are served, name only each other, and fit their Content-Security-Policy."""

import re
from html.parser import HTMLParser

import pytest

pytest.importorskip("fastapi")
from fastapi.testclient import TestClient

from brainplug.service.app import make_app
from brainplug.service.gate import NEEDS_NO_TOKEN
from brainplug.service.pages import FILES, PAGE, PAGE_HEADERS
from brainplug.service.settings import Settings

TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
PAGES = [path for path, name in FILES.items() if name.endswith(".html")]
SCRIPTS = [path for path, name in FILES.items() if name.endswith(".js")]
LINKS = ("action", "data", "formaction", "href", "poster", "src", "srcset")  # what loads something, or leads somewhere
ASKED = re.compile(r"""(?:ask|fetch|from|import|URL)\s*\(?\s*["'`]([^"'`]+)["'`]""")  # the addresses in a script


class Tags(HTMLParser):
    """The tags of a page, with their attributes and the text in scripts."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline, self._inside = "", False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._inside = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        self.inline += data.strip() if self._inside else ""

    def values(self, *names: str) -> list[str]:
        return [attributes[name] or "" for _, attributes in self.tags for name in names if name in attributes]


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(make_app([], Settings(token="of-a-stranger")))


@pytest.fixture(params=PAGES)
def page(request, client) -> Tags:
    return Tags(client.get(request.param).text)


def addresses(client: TestClient) -> set[str]:
    """What the service answers to a GET or a POST."""
    return {*FILES, *client.get("/openapi.json").json()["paths"], "/openapi.json"}


@pytest.mark.parametrize("path", FILES)
def test_file_is_served_with_type_and_headers_without_token(client, path):
    answer = client.get(path)
    content = (PAGE / FILES[path]).read_bytes()
    assert (answer.status_code, answer.content) == (200, content)
    assert len(content) > 100, "it is a stub"
    assert answer.headers["content-type"].partition(";")[0] == TYPES[FILES[path].rpartition(".")[2]]
    assert {name: answer.headers.get(name) for name in PAGE_HEADERS} == PAGE_HEADERS
    assert path in NEEDS_NO_TOKEN


def test_every_file_of_the_folder_is_served():
    assert sorted(FILES.values()) == sorted(path.name for path in PAGE.iterdir())


def test_page_names_only_what_is_served(client, page):
    named = page.values(*LINKS)
    assert {"/" + name.removeprefix("./") for name in named} <= addresses(client)
    assert {"page.css"} < set(named)


@pytest.mark.parametrize("path", SCRIPTS)
def test_script_asks_only_for_what_is_served(client, path):
    text = client.get(path).text
    named = ASKED.findall(text)
    assert {"/" + name.removeprefix("./") for name in named} <= addresses(client)
    assert named or path == "/sound.js"


@pytest.mark.parametrize("path", FILES)
def test_no_foreign_address(client, path):
    assert (
        re.findall(
            r"//[\w.-]+\.\w+|\burl\(|@import|\bdata:", client.get(path).text.replace("//www.w3.org/2000/svg", "")
        )
        == []
    )


def test_nothing_inline(page):
    assert page.inline == ""
    assert "style" not in {tag for tag, _ in page.tags}
    assert [
        name for _, attributes in page.tags for name in attributes if name == "style" or name.startswith("on")
    ] == []


@pytest.mark.parametrize("path", SCRIPTS)
def test_script_makes_no_markup_of_text(client, path):
    """A label or the name of a file could hold markup."""
    markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|\bFunction\("
    assert re.findall(markup, client.get(path).text.replace("//www.w3.org/2000/svg", "")) == []


def test_every_field_has_a_label_and_every_id_is_unique(page):
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    fields = {attributes["id"] for tag, attributes in page.tags if tag == "input"}
    assert fields <= set(page.values("for")) <= set(ids)


def test_script_uses_only_ids_of_the_page(client):
    ids = set(Tags(client.get("/").text).values("id"))
    used = set(re.findall(r"\bat\.(\w+)", client.get("/page.js").text))
    assert used
    assert used <= ids


def test_fields_are_those_of_the_service(client):
    """Of the form, only the adapters are made by the script."""
    names = set(Tags(client.get("/").text).values("name")) - {"viewport"}
    schema = client.get("/openapi.json").json()["components"]["schemas"]["ClassifyForm"]
    assert names | {"adapters"} == set(schema["properties"])


def test_placeholders_are_the_defaults_of_the_service(client):
    page = Tags(client.get("/").text)
    shown = {a["name"]: a.get("placeholder") for tag, a in page.tags if tag == "input" and a.get("name")}
    schema = client.get("/openapi.json").json()["components"]["schemas"]["ClassifyForm"]["properties"]
    defaults = {name: field["default"] for name, field in schema.items() if "default" in field}
    assert {name: float(shown[name]) for name in defaults} == defaults
