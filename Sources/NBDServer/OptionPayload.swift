internal import Codecs

/// What an option says, out of a client's bytes. Names are not looked at: there is one export.
enum OptionPayload {
    /// "NBD_OPT_INFO and NBD_OPT_GO": the name and what is asked for.
    static func parseInfo(_ payload: [UInt8]) throws(FieldError) -> (name: [UInt8], wanted: [UInt16]) {
        var fields = unsafe FieldReader(payload.span.bytes)
        let name = try string(&fields)
        let count: UInt16 = try fields.nextBig("count of information requests")
        var wanted: [UInt16] = []
        for _ in 0..<count { wanted.append(try fields.nextBig("information request")) }
        try expectEnd(fields)
        return (name, wanted)
    }

    /// "NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT": the export's name, and whether base:allocation is
    /// meant.
    static func parseContexts(
        _ payload: [UInt8], isList: Bool
    ) throws(FieldError) -> (name: [UInt8], hasAllocation: Bool) {
        var fields = unsafe FieldReader(payload.span.bytes)
        let name = try string(&fields)
        let count: UInt32 = try fields.nextBig("count of queries")
        // Without a query a list has all.
        var hasAllocation = isList && count == 0
        for _ in 0..<count {
            let query = String(decoding: try string(&fields), as: UTF8.self)
            if query == NBDNumbers.allocationName || (isList && query == "base:") { hasAllocation = true }
        }
        try expectEnd(fields)
        return (name, hasAllocation)
    }

    private static func string(_ fields: inout FieldReader) throws(FieldError) -> [UInt8] {
        let length: UInt32 = try fields.nextBig("length of a string")
        return try fields.bytes("string", count: Int(length))
    }

    private static func expectEnd(_ fields: borrowing FieldReader) throws(FieldError) {
        guard fields.remaining == 0 else { throw FieldError("there is more than the option has", at: fields.position) }
    }
}
