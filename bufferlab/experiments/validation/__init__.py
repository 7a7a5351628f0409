"""Whether the simulator predicts what was measured.

Measured runs are paired with their prediction (``pairing``). Their scores (``scores``, ``agreement``) have intervals
(``resampling``) and stand beside what the measurement itself is off by (``noise``); ``stages`` scores every stage of a
request. What counts in the end is the setting that the simulator would choose (``decision``).

``score_case``, ``decide`` and ``write_report`` do from Python what ``bufferlab validate`` does.
"""

from bufferlab.experiments.validation.cases import CaseScore as CaseScore
from bufferlab.experiments.validation.cases import cases_of as cases_of
from bufferlab.experiments.validation.cases import score_case as score_case
from bufferlab.experiments.validation.decision import Decision as Decision
from bufferlab.experiments.validation.decision import decide as decide
from bufferlab.experiments.validation.frozen import FrozenProfile as FrozenProfile
from bufferlab.experiments.validation.frozen import freeze as freeze
from bufferlab.experiments.validation.report import report_content as report_content
from bufferlab.experiments.validation.report import report_text as report_text
from bufferlab.experiments.validation.report import write_report as write_report
from bufferlab.experiments.validation.tolerances import TOLERANCES as TOLERANCES
