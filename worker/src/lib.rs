//! Worker: consumes each partition in order and applies it, exactly once in effect.

pub mod config;

pub mod ahead;
pub mod consumer;
pub mod decided;
mod decision;
pub mod event;
mod internal;
pub mod janitor;
pub mod liveness;
mod measure;
pub mod ownership;
pub mod share;

pub mod batch;
pub mod transition;

pub mod apply;
pub mod store;

pub mod entity;
pub mod migration;

pub mod progress;
pub mod replay;

pub mod audit;

pub mod observe;
pub mod redrive;
mod shown;
pub mod web;

pub mod ops;
pub mod run;
