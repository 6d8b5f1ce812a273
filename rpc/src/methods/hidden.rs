//! Test helpers and node control: rows that Core's handlers answer.

use super::{json, line, text};
use crate::table::{Category, Method};

pub static METHODS: &[Method] = &[
    Method::kernel(
        "echo",
        Category::Hidden,
        &[
            text("arg0"),
            text("arg1"),
            text("arg2"),
            text("arg3"),
            text("arg4"),
            text("arg5"),
            text("arg6"),
            text("arg7"),
            text("arg8"),
            text("arg9"),
        ],
    ),
    Method::kernel("echoipc", Category::Hidden, &[line("arg")]),
    Method::kernel(
        "echojson",
        Category::Hidden,
        &[
            json("arg0"),
            json("arg1"),
            json("arg2"),
            json("arg3"),
            json("arg4"),
            json("arg5"),
            json("arg6"),
            json("arg7"),
            json("arg8"),
            json("arg9"),
        ],
    ),
    Method::kernel("estimaterawfee", Category::Hidden, &[json("conf_target"), json("threshold")]),
    Method::kernel("exportasmap", Category::Network, &[text("path")]),
    Method::kernel("generate", Category::Hidden, &[]),
    Method::kernel("generateblock", Category::Hidden, &[text("output"), json("transactions"), json("submit")]),
    Method::kernel("generatetoaddress", Category::Hidden, &[json("nblocks"), text("address"), json("maxtries")]),
    Method::kernel(
        "generatetodescriptor",
        Category::Hidden,
        &[json("num_blocks"), text("descriptor"), json("maxtries")],
    ),
    Method::kernel("getmemoryinfo", Category::Control, &[text("mode")]),
    Method::kernel("getmempoolfeeratediagram", Category::Hidden, &[]),
    Method::kernel("getorphantxs", Category::Hidden, &[json("verbosity")]),
    Method::kernel("getrpcinfo", Category::Control, &[]),
    Method::kernel("invalidateblock", Category::Hidden, &[text("blockhash")]),
    Method::kernel("logging", Category::Control, &[json("include"), json("exclude")]),
    Method::kernel("reconsiderblock", Category::Hidden, &[text("blockhash")]),
    Method::kernel("setmocktime", Category::Hidden, &[json("timestamp")]),
    Method::kernel("syncwithvalidationinterfacequeue", Category::Hidden, &[]),
];
