//! haul-peer
