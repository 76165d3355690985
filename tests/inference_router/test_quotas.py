"""However quotas overlap, the rules let in what every one of them lets in, and nothing else."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from inference_router.routing.quotas import QuotaRule, compile_quotas

names = st.sampled_from(["", "a", "b"])
amounts = st.integers(0, 3)
rules = st.builds(
    QuotaRule, names, st.sampled_from(["user", "organization", "nobody"]), names, names, amounts, amounts, amounts
)


@given(st.lists(rules, max_size=12), st.randoms(use_true_random=False))
def test_rules_are_as_strict_as_all_quotas_together(wanted: list[QuotaRule], random: Random) -> None:
    compiled = compile_quotas(wanted)
    shuffled = list(wanted)
    random.shuffle(shuffled)
    assert compile_quotas(shuffled) == compiled
    assert compile_quotas(compiled) == compiled
    who = [(rule.org_id, rule.subject, rule.subject_id, rule.model) for rule in compiled]
    assert who == sorted(set(who))
    for rule in compiled:
        assert not rule.flaw()
        same = [each for each in wanted if _who(each) == _who(rule)]
        for number, limit in enumerate(rule.limits):
            said = [each.limits[number] for each in same if each.limits[number]]
            assert limit == min(said, default=0)
    assert {_who(each) for each in wanted if not each.flaw() and any(each.limits)} == set(who)


def _who(rule: QuotaRule) -> tuple[str, str, str, str]:
    return rule.org_id, rule.subject, rule.subject_id, rule.model
