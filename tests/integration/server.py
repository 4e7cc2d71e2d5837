"""What the process does from which runs are forked: it asks pip once for all of them what is installed."""

import functools

from speechbrain.utils import logger

logger.get_environment_description = functools.cache(logger.get_environment_description)
logger.get_environment_description()
