//! What kind of traffic each capture holds, and the violations that are reported of it.
