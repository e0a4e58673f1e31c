"""JUnit XML, as CI systems read it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree as ET

from phi3quant.visible import in_xml

Problem = Literal["failure", "error", "skipped"]


@dataclass(frozen=True)
class Case:
    """A test case.

    Attributes:
        name: name of the case.
        output: text for system-out.
        problem: kind of problem; None if the case passed.
        message: message of the problem; ``output`` if it is empty.
        seconds: duration.
    """

    name: str
    output: str
    problem: Problem | None = None
    message: str = ""
    seconds: float = 0


def junit(suite_name: str, class_name: str, cases: Iterable[Case]) -> str:
    """A suite of cases as XML.

    Args:
        suite_name: name of the suite, such as a command.
        class_name: class name of all cases.
        cases: cases in their order.
    """
    suite = ET.Element("testsuite", name=suite_name)
    for case in cases:
        element = ET.SubElement(
            suite,
            "testcase",
            classname=class_name,
            name=in_xml(case.name),
            time=f"{case.seconds:g}",
        )
        ET.SubElement(element, "system-out").text = in_xml(case.output)
        if case.problem is not None:
            ET.SubElement(element, case.problem, message=in_xml(case.message or case.output))
    counts = {"tests": "testcase", "failures": ".//failure", "errors": ".//error"}
    for name, tag in {**counts, "skipped": ".//skipped"}.items():
        suite.set(name, str(len(suite.findall(tag))))
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
