//! Gives [`fuzz::callback`] what libFuzzer invents.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::callback::check(data));
