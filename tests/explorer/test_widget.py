"""The explorer as a widget: messages ask, and get their answers."""

from cbir_utils.explorer.explorer import Explorer


def test_a_message_is_answered_by_its_number(finished, monkeypatch):
    widget, sent = Explorer(*finished).widget, []
    monkeypatch.setattr(type(widget), "send", lambda self, content, buffers=None: sent.append(content))
    request = {"do": "search", "query": {"query": 0}, "method": "hog", "metric": "cosine", "k": 3}
    widget._handle_custom_msg({"id": "7", "request": request}, [])  # as the browser sends it
    widget._handle_custom_msg({"id": "8", "request": {"do": "alive"}}, [])
    assert [message["id"] for message in sent] == ["7", "8"] and sent[1]["answer"] == {"alive": True}
    assert len(sent[0]["answer"]["hits"]) == 3


def test_its_script_is_one_module(finished):
    script = Explorer(*finished).widget._esm
    assert "import " not in "".join(line for line in script.splitlines() if line.startswith("import"))
    assert script.count("export default { render }") == 1 and "function drawing_pad" in script
