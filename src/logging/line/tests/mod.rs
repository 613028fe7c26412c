//! Tests of access lines, and of how all lines are formatted.

mod access;
mod format;

use super::*;
