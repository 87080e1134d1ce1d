"""Where the modules of the computer's Python go in a guest."""

from __future__ import annotations

from zdlab.guest.image import gather


def test_a_package_in_an_environment_below_the_checkout_goes_where_packages_go() -> None:
    roots = ["/home/me/zdlab", "/home/me/zdlab/.venv/lib/python3/site-packages"]

    assert gather.guest_path("/home/me/zdlab/zdlab/paths.py", roots) == "/usr/lib/zdlab/zdlab/paths.py"
    assert gather.guest_path(f"{roots[1]}/pkg/__init__.py", roots) == "/usr/lib/zdlab/pkg/__init__.py"
    assert gather.guest_path("/usr/lib/python3/os.py", roots) == "/usr/lib/python3/os.py"
