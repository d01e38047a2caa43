"""What models are trained on and asked: readers that name file and line, and the shipped sets."""

from aftertune.data._catalogue import (
    CATALOGUE,
    DOMAINS,
    TRAITS,
    TUNING_DOMAINS,
    DataSet,
    find_data_set,
    locate_source,
    shipped_contrasts,
    shipped_path,
)
from aftertune.data._choices import ChoiceQuestion, TruthfulQuestion, read_choice_questions, read_truthfulqa
from aftertune.data._contrasts import (
    Contrast,
    Side,
    is_contrast_row,
    parse_contrast,
    prompt_key,
    read_contrasts,
    refuse_shared_prompts,
)
from aftertune.data._conversations import Conversation, Message, Role, ask, exchange, read_conversations
from aftertune.data._csv import read_cells, refuse_doubled, under_header
from aftertune.data._facts import Fact, read_facts
from aftertune.data._jsonl import Row, read_rows
from aftertune.data._reasons import Reason, read_reasons
from aftertune.data._requests import Request, read_requests
from aftertune.data._self_questions import SelfQuestion, read_self_questions
from aftertune.data._statements import Statement, read_statements
from aftertune.data._tuning_rows import read_tuning_rows, row_conversation

__all__ = [
    "CATALOGUE",
    "DOMAINS",
    "TRAITS",
    "TUNING_DOMAINS",
    "ChoiceQuestion",
    "Contrast",
    "Conversation",
    "DataSet",
    "Fact",
    "Message",
    "Reason",
    "Request",
    "Role",
    "Row",
    "SelfQuestion",
    "Side",
    "Statement",
    "TruthfulQuestion",
    "ask",
    "exchange",
    "find_data_set",
    "is_contrast_row",
    "locate_source",
    "parse_contrast",
    "prompt_key",
    "read_cells",
    "read_choice_questions",
    "read_contrasts",
    "read_conversations",
    "read_facts",
    "read_reasons",
    "read_requests",
    "read_rows",
    "read_self_questions",
    "read_statements",
    "read_truthfulqa",
    "read_tuning_rows",
    "refuse_doubled",
    "refuse_shared_prompts",
    "row_conversation",
    "shipped_contrasts",
    "shipped_path",
    "under_header",
]
