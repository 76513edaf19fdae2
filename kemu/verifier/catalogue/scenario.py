"""What a scenario itself states."""

from kemu.verifier.catalogue.rule import declare

declare("invariant", "an invariant of the scenario does not hold")
declare("expectation", "an expectation of the scenario was not met")
