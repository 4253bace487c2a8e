"""Chat in a real browser, against toy engines; and its routes, as two keys see them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.studio.conftest import Site, serious, until

Visit = Callable[..., Any]
CHAT = "/studio/en/chat"
TALKER = f"{CHAT}?model=talker"
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}


def say(page: Any, text: str) -> None:
    page.fill("#message", text)
    page.keyboard.press("Enter")


def see(page: Any, text: str) -> None:
    """Wait until the page says so (its policy lets no script look)."""
    until(lambda: text in page.inner_text("#main"))


def ended(page: Any) -> None:
    """Wait until the answer has ended."""
    page.wait_for_selector("#send [type=submit]")


def ask(page: Any, text: str) -> None:
    say(page, text)
    see(page, text)
    ended(page)


def last(page: Any) -> str:
    """The text of the last answer."""
    return str(page.locator(".turn:not(.mine) .text").last.inner_text())


def test_an_answer_is_streamed_and_can_be_stopped_and_gone_on_with(
    visit: Visit, site: Site
) -> None:
    page = visit(CHAT)
    assert page.inner_text("#models summary") == "echo"
    page.goto(f"{site.url}{TALKER}")
    say(page, "count 150")
    page.wait_for_selector(".halt")
    see(page, "number-5")
    assert "number-150" not in page.inner_text("#main")
    assert page.get_attribute(".turn.last", "aria-busy") == "true"
    streams = list[str]()
    page.on("request", lambda request: streams.append(request.url))
    page.reload()  # in the middle: the stream goes on
    see(page, "number-20")
    page.click(".halt")
    ended(page)
    assert page.inner_text("#send") == "Send"
    written = last(page)
    assert re.search(r"Stopped at \d+ tokens\.", page.inner_text("#main"))
    assert "number-150" not in written
    assert len([url for url in streams if url.endswith("/stream")]) == 1
    page.get_by_role("button", name="Go on").click()
    see(page, "number-150")
    ended(page)
    numbers = last(page).split()
    assert numbers == [f"number-{at}" for at in range(1, 151)]
    assert last(page).startswith(written.rstrip())
    assert re.search(
        r"15[01] tokens · \d+ tokens/s · seed \d+", page.inner_text(".acts >> nth=-1")
    )
    assert re.search(r"\d+ tokens/s · [\d,]+ of 4,096 left", page.inner_text("#pace"))
    assert page.inner_text("#state") == "The answer has ended"


def test_markdown_shows_as_it_is_meant_and_nothing_else_does(visit: Visit) -> None:
    page = visit(TALKER)
    ask(page, "markdown <img src=x onerror=alert(1)>")
    answer = page.locator(".turn.last")
    assert answer.locator("h3").inner_text() == "Three ways"
    assert answer.locator("td.right").inner_text() == "1.4 GB"
    assert answer.locator("pre").inner_text().strip() == 'print("<b>hello</b>")'
    assert answer.locator("li").count() == 2
    assert "<script>" in answer.inner_text()
    assert page.locator("#main img, #main script, [href^=javascript]").count() == 0
    there = answer.get_by_role("link", name="there")
    assert there.get_attribute("rel") == "noopener noreferrer nofollow"
    assert answer.get_by_role("link", name="a picture").count() == 1
    assert "<img src=x" in page.inner_text(".mine")
    assert "taken" not in page.title()
    assert serious(page) == []


def test_variants_stand_side_by_side_and_questions_branch(visit: Visit) -> None:
    page = visit(TALKER)
    ask(page, "red")
    page.get_by_role("button", name="Answer again").click()
    page.wait_for_selector("text=2 / 2")
    ended(page)
    second = page.url
    assert page.locator("[rel=prev]").count() == 1
    page.get_by_role("link", name="Earlier variant").click()
    page.wait_for_selector("text=1 / 2")
    page.go_back()
    page.wait_for_selector("text=2 / 2")
    assert page.url == second
    page.get_by_role("link", name="Side by side").click()
    page.wait_for_selector(".sides")
    assert page.locator(".sides article").count() == 2
    page.locator(".sides").get_by_role("link", name="Go on with this one").first.click()
    page.wait_for_selector("text=1 / 2")
    page.get_by_role("link", name="Edit and ask again").click()
    page.fill("[id^=edit-]", "blue")
    page.get_by_role("button", name="Ask anew").click()
    page.wait_for_selector("text=You said: blue")
    ended(page)
    assert page.locator(".mine .variants").inner_text().strip() == "2 / 2"
    page.locator(".mine").get_by_role("link", name="Earlier variant").click()
    page.wait_for_selector("text=You said: red")
    page.get_by_role("button", name="Branch from here").click()
    page.wait_for_url(re.compile(r"chat/conv_\w+$"))
    assert page.locator("#conversations li").count() >= 2
    assert "red" in page.inner_text(".turns") and "blue" not in page.inner_text(
        ".turns"
    )


def test_thumbs_and_better_wordings_are_feedback(visit: Visit, site: Site) -> None:
    page = visit(TALKER)
    ask(page, "violet")
    page.get_by_role("button", name="Good answer").click()
    page.wait_for_selector("[aria-label='Good answer'][aria-pressed=true]")
    page.wait_for_selector(".toast")
    page.get_by_role("link", name="Better wording").click()
    page.fill("[id^=word-]", "You have said: violet.")
    page.get_by_role("button", name="Keep it").first.click()
    page.wait_for_selector("text=You have said: violet.")
    assert "worded by a person" in page.inner_text(".turn.last")
    rows = site.get("/v1/feedback").json()["data"]
    assert [row["kind"] for row in rows[:2]] == ["edit", "thumb"]
    assert rows[0]["chosen"] == "You have said: violet."
    assert rows[0]["rejected"] == "You said: violet"
    assert rows[0]["messages"] == [{"role": "user", "content": "violet"}]
    page.get_by_role("button", name="Good answer").click()
    page.wait_for_selector("[aria-label='Good answer'][aria-pressed=false]")
    kinds = [row["kind"] for row in site.get("/v1/feedback").json()["data"]]
    assert kinds.count("thumb") == 0


def test_conversations_are_searched_renamed_exported_and_deleted(
    visit: Visit, site: Site, tmp_path: Path
) -> None:
    page = visit(TALKER)
    ask(page, "a word that is rare: quokka")
    page.get_by_role("link", name="Rename").first.click()
    page.fill("#title", "Animals of Australia")
    page.get_by_role("button", name="Rename").click()
    page.wait_for_selector("h1:has-text('Animals of Australia')")
    assert page.title().startswith("Animals of Australia")
    page.reload()
    page.get_by_role("searchbox").fill("QUOKKA")
    until(lambda: page.locator("#conversations li").count() == 1)
    page.get_by_role("searchbox").fill("not there at all")
    page.wait_for_selector("text=Nothing is found.")
    page.get_by_text("Export", exact=True).first.click()
    with page.expect_download() as started:
        page.get_by_role("link", name="Markdown").first.click()
    text = Path(started.value.path()).read_text(encoding="utf-8")
    assert text.startswith("# Animals of Australia\n\n## User\n\na word that is rare")
    assert started.value.suggested_filename == "Animals of Australia.md"
    address = page.url.partition("?")[0]
    second = page.context.new_page()  # a second tab
    second.goto(page.url)
    assert "quokka" in second.inner_text(".turns")
    page.locator("header").get_by_role("button", name="Delete").click()
    page.locator("#question").get_by_role("button", name="Go ahead").click()
    page.wait_for_url(f"{site.url}{CHAT}")
    assert page.context.request.get(address).status == 404


def test_what_is_wrong_stands_at_its_field(visit: Visit) -> None:
    page = visit(TALKER)
    page.get_by_role("button", name="Settings").click()
    page.locator("summary", has_text="JSON schema").click()
    page.fill("#set-schema", '{"type": ')
    page.fill("#set-seed", "seven")
    page.keyboard.press("Tab")
    page.wait_for_selector("#schema-fault")
    assert page.inner_text("#schema-fault") == "Line 1, column 9: Expecting value."
    assert "seven is no whole number" in page.inner_text("#seed-fault")
    page.keyboard.press("Escape")
    say(page, "json")
    page.wait_for_selector("#settings:popover-open .wrong")
    page.wait_for_selector("#set-seed:focus")
    page.wait_for_timeout(100)
    assert page.evaluate("document.activeElement.id") == "set-seed"
    assert page.input_value("#message") == "json"
    page.fill(
        "#set-schema",
        '{"type": "object", "properties": {"colour": {"type": "string"}}}',
    )
    page.fill("#set-seed", "7")
    page.keyboard.press("Tab")
    until(lambda: page.locator("#settings .wrong").count() == 0)
    assert serious(page) == []
    page.keyboard.press("Escape")
    page.focus("#message")
    page.keyboard.press("Enter")
    page.wait_for_selector(".turn.last pre:has-text('red')")
    ended(page)
    assert "seed 7" in page.inner_text(".turn.last")
    assert page.input_value("#message") == ""
    page.reload()
    assert page.input_value("#set-seed") == "7"


def test_what_is_typed_while_settings_are_being_kept_stays(visit: Visit) -> None:
    page = visit(TALKER)
    page.get_by_role("button", name="Settings").click()
    held = list[Any]()
    page.route("**/settings", lambda route: held.append(route))
    page.fill("#set-seed", "7")
    with page.expect_request("**/settings"):
        page.keyboard.press("Tab")
    page.evaluate(
        """() => {
            const field = document.getElementById("set-max-tokens");
            field.value = "90";
            field.dispatchEvent(new Event("input", { bubbles: true }));
        }"""
    )
    with page.expect_response("**/jobs/counts"):  # others ask for parts meanwhile
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    with page.expect_response("**/settings"):
        held[0].continue_()
    page.wait_for_timeout(300)  # it is put in
    assert page.input_value("#set-max-tokens") == "90"
    assert page.input_value("#set-seed") == "7"


def test_tools_are_called_and_their_results_typed_in(visit: Visit) -> None:
    page = visit(TALKER)
    page.get_by_role("button", name="Settings").click()
    page.locator("summary", has_text="Tools").click()
    page.fill("#set-tools", '[{"name": "weather", "parameters": {"type": "object"}}]')
    page.keyboard.press("Escape")
    say(page, "call it")
    page.wait_for_selector("text=Calls weather")
    page.fill("[id^=result-]", "rain")
    page.get_by_role("button", name="Give it to the model").click()
    page.wait_for_selector("text=You said: rain")
    ended(page)
    assert "Result of weather" in page.inner_text(".turns")


def test_files_are_added_and_refused(visit: Visit) -> None:
    page = visit(TALKER)
    page.set_input_files(
        "#files",
        [
            {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"line of notes"},
            {"name": "b.bin", "mimeType": "text/plain", "buffer": b"\x00\x01"},
        ],
    )
    assert page.locator("#chips .chip").count() == 2
    say(page, "read this")
    page.wait_for_selector("#message-fault")
    assert "b.bin is neither text" in page.inner_text("#message-fault")
    page.get_by_role("button", name="Remove b.bin").click()
    ask(page, "read this")
    assert "notes.txt · 13 B" in page.inner_text(".mine")
    assert "line of notes" in last(page)
    assert page.locator("#chips .chip").count() == 0


def test_errors_stand_in_the_dialogue_with_a_remedy(visit: Visit) -> None:
    page = visit(f"{CHAT}?model=writer")
    ask(page, "once upon a time")
    assert last(page) == "once upon a time"  # it goes on with texts
    page.goto(page.url.partition("/studio/")[0] + f"{CHAT}?model=talker")
    ask(page, "call it")  # without a tool the toy breaks
    error = page.locator(".turn.last .error")
    assert error.get_attribute("role") == "alert"
    assert "No answer." in error.inner_text()
    error.get_by_role("button", name="Answer again").click()
    page.wait_for_selector("text=2 / 2")


def test_a_phone_and_chinese(visit: Visit) -> None:
    page = visit("/studio/zh/chat?model=talker", color_scheme="dark", **PHONE)
    ask(page, "markdown")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.inner_text("#send") == "发送"
    assert page.evaluate("document.documentElement.lang") == "zh-Hans"
    page.locator(".top").get_by_role("button", name="对话列表").click()
    page.wait_for_selector("#past:popover-open")
    assert serious(page) == []
    page.keyboard.press("Escape")
    page.get_by_role("button", name="设置").click()
    page.wait_for_selector("#settings:popover-open")
    assert page.locator("#settings .phone").get_by_text("删除").is_visible()
    assert serious(page) == []


def test_an_input_method_composes_undisturbed(visit: Visit) -> None:
    page = visit(TALKER)
    page.fill("#message", "ni hao")
    page.evaluate(
        """() => {
            const enter = (isComposing) => new KeyboardEvent("keydown", {
                key: "Enter", bubbles: true, cancelable: true, isComposing });
            document.getElementById("message").dispatchEvent(enter(true));
        }"""
    )
    assert page.locator(".turn").count() == 0
    page.press("#message", "Shift+Enter")
    assert page.input_value("#message") == "ni hao\n"
    page.reload()
    assert page.input_value("#message") == "ni hao\n"  # the draft is still there


def test_the_keyboard_alone_is_enough(visit: Visit) -> None:
    page = visit(TALKER)
    page.keyboard.type("red")  # the composer has the focus
    page.keyboard.press("Enter")
    page.keyboard.type("next")  # while the first is on its way
    see(page, "You said: red")
    ended(page)
    assert page.input_value("#message") == "next"
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.closest('.turn.last') !== null")
    page.get_by_role("button", name="Answer again").press("Enter")
    see(page, "2 / 2")
    ended(page)
    page.get_by_role("link", name="Side by side").press("Enter")
    page.wait_for_selector(".sides")
    page.focus("#models summary")
    page.keyboard.press("Enter")
    page.focus("[name=model]:checked")
    page.keyboard.press("ArrowUp")
    page.wait_for_url(re.compile("model=slow"))
    assert page.input_value("#message") == "next"
    assert page.inner_text("#models summary") == "slow"
    page.reload()
    assert page.inner_text("#models summary") == "slow"


def test_an_address_opens_at_its_turn(visit: Visit) -> None:
    page = visit(TALKER)
    ask(page, "first")
    first = page.url
    for at in range(4):
        ask(page, f"count {40 + at}")
    page.goto(first)
    answer = page.locator(".turn:not(.mine)").first
    until(lambda: answer.bounding_box()["y"] > 0)
    page.locator(".mine").nth(1).hover()
    page.get_by_role("link", name="Edit and ask again").nth(1).click()
    form = page.locator(".editing")
    form.wait_for()
    assert 0 < form.bounding_box()["y"] < 900
    assert page.evaluate("document.activeElement.id").startswith("edit-")
    page.go_back()
    form.wait_for(state="detached")
