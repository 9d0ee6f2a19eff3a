"""Damaged and hostile bundles are refused; the tool that makes a thousand of them finds one that is not."""

import json

from flextron_export.bundle import manifest
from flextron_export.bundle.manifest import Bundle
from tests.random_bundle import random_bundle
from tools.mutate_bundles import MUTATIONS, collect, faults


def test_every_mutant_is_refused_and_what_is_opened_is_reported(tmp_path, monkeypatch):
    bundle = random_bundle(tmp_path)
    records = collect(bundle, 3 * len(MUTATIONS), seed=1)
    assert faults(records) == [] and {r["kind"] for r in records} == {m.__name__ for m in MUTATIONS}
    assert {r["without_hashes"] for r in records} == {"refused", "opened"}
    Bundle.open(bundle)
    # A reader that looks at no hash lets some through, one that stumbles over what it reads is found too.
    monkeypatch.setattr(manifest, "faults", lambda *arguments, **options: [])
    monkeypatch.setattr(Bundle, "_seal_faults", lambda bundle: [])
    assert any(fault["result"] == "opened" for fault in faults(collect(bundle, 12, seed=1)))
    monkeypatch.setattr(manifest, "MALFORMED", ())
    kinds = {fault["result"].split(":")[0] for fault in faults(collect(bundle, 24, seed=1))}
    assert kinds - {"opened", "refused"}, json.dumps(sorted(kinds))
