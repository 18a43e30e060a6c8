//! haul-net
