"""Names of domains and of their key versions."""

import pytest

from quorate.ids import DomainId


@pytest.mark.parametrize("name", ["default", "a", "default.2", "a-b.18446744073709551615"])
def test_a_sharing_is_a_domain_or_one_of_its_later_key_versions(name: str) -> None:
    assert str(DomainId(name)) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".2",
        "a.",
        "a.0",
        "a.1",
        "a.02",
        "a.+2",
        "a. 2",
        "a.2.3",
        "a.18446744073709551616",
        "A",
        "a.b",
        "a.٢",
    ],
)
def test_a_key_version_is_named_in_one_way(name: str) -> None:
    with pytest.raises(ValueError, match=r"domain name|key version"):
        DomainId(name)


def test_a_key_version_knows_its_domain_and_its_number() -> None:
    third = DomainId("default").at_version(3)
    assert (str(third), str(third.base), third.key_version) == ("default.3", "default", 3)
    assert third.at_version(1) == third.base == DomainId("default")
    assert DomainId("default").key_version == 1


def test_people_name_a_domain_without_a_key_version() -> None:
    assert DomainId.named("default") == DomainId("default")
    with pytest.raises(ValueError, match="inner hyphens"):
        DomainId.named("default.2")
