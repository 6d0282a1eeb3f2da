// The executor's runtime, one translation unit: built once, kept by the hash of its text.
#include "state.h"
#include "fibers.h"
#include "exchange.h"
#include "memory.h"
#include "launch.h"
