internal import DeviceServer
internal import DiskImage
internal import Geometry

// What is done for each request, and replied ("Transmission phase").

extension Connection {
    /// Runs of one block status reply; a client asks again for the rest.
    private static let extentsMax = 4096
    private static let contextBytes = 4
    private static let descriptorBytes = 8

    func perform(_ received: Received, _ memory: RequestMemory) {
        let request = received.request
        if let refusal = received.refusal { return reply(refusal, to: request, memory) }
        do throws(DeviceFault) {
            switch request.type {
            case CommandType.read: return try read(request, memory)
            case CommandType.blockStatus: return try blockStatus(request, memory)
            case CommandType.write:
                try unsafe server.device.write(
                    at: request.offset, from: UnsafeRawBufferPointer(memory.payload(Int(request.count))),
                    durable: request.isDurable)
            case CommandType.flush: try server.device.flush()
            case CommandType.trim where !session.trimsToZero:
                try server.device.discard(
                    at: request.offset, count: UInt64(request.count), durable: request.isDurable)
            default:
                try server.device.writeZeroes(
                    at: request.offset, count: UInt64(request.count), mayDiscard: !request.flags.contains(.noHole),
                    durable: request.isDurable)
            }
            reply(.none, to: request, memory)
        } catch {
            if isGone { return }
            server.log.say(error.message)
            reply(NBDErrorNumber(errno: error.number), to: request, memory)
        }
    }

    private func read(_ request: Request, _ memory: RequestMemory) throws(DeviceFault) {
        let count = Int(request.count)
        // Too late for an answer: the server ends.
        guard memory.reserve(count, for: .reading) else { return reply(.shutdown, to: request, memory) }
        try unsafe server.device.read(at: request.offset, into: memory.payload(count))
        guard session.hasStructuredReplies else {
            let bytes = unsafe memory.reply(header: NBDNumbers.simpleReplyBytes, payload: count)
            unsafe writeSimpleHeader(.none, request, to: bytes)
            return unsafe send(UnsafeRawBufferPointer(bytes))
        }
        let header = NBDNumbers.chunkBytes + NBDNumbers.chunkOffsetBytes
        let bytes = unsafe memory.reply(header: header, payload: count)
        unsafe writeChunkHeader(
            NBDNumbers.chunkData, request, count: NBDNumbers.chunkOffsetBytes + count, to: bytes)
        unsafe bytes.store(bigEndian: request.offset, at: NBDNumbers.chunkBytes)
        unsafe send(UnsafeRawBufferPointer(bytes))
    }

    private func blockStatus(_ request: Request, _ memory: RequestMemory) throws(DeviceFault) {
        let runs = try server.device.extents(
            at: request.offset, count: UInt64(request.count),
            limit: request.flags.contains(.oneExtent) ? 1 : Self.extentsMax)
        let count = Self.contextBytes + runs.count * Self.descriptorBytes
        let bytes = unsafe memory.reply(header: NBDNumbers.chunkBytes, payload: count)
        unsafe writeChunkHeader(NBDNumbers.chunkBlockStatus, request, count: count, to: bytes)
        unsafe bytes.store(bigEndian: NBDNumbers.allocationContext, at: NBDNumbers.chunkBytes)
        var position = NBDNumbers.chunkBytes + Self.contextBytes
        for run in runs {
            let state = (run.isAllocated ? 0 : NBDNumbers.stateHole) | (run.isZero ? NBDNumbers.stateZero : 0)
            // They are within the range that was asked for, whose length has 32 bits.
            unsafe bytes.store(bigEndian: UInt32(clamping: run.range.count), at: position)
            unsafe bytes.store(bigEndian: state, at: position + 4)
            position += Self.descriptorBytes
        }
        unsafe send(UnsafeRawBufferPointer(bytes))
    }

    /// A reply without data.
    private func reply(_ error: NBDErrorNumber, to request: Request, _ memory: RequestMemory) {
        // "Structured replies": those to reads and of block status have to be.
        let isChunk =
            session.hasStructuredReplies
            && (request.type == CommandType.read || request.type == CommandType.blockStatus)
        guard isChunk else {
            let bytes = unsafe memory.reply(header: NBDNumbers.simpleReplyBytes, payload: 0)
            unsafe writeSimpleHeader(error, request, to: bytes)
            return unsafe send(UnsafeRawBufferPointer(bytes))
        }
        // The number, and the length of a text that is left out.
        let bytes = unsafe memory.reply(header: NBDNumbers.chunkBytes, payload: 6)
        unsafe writeChunkHeader(NBDNumbers.chunkError, request, count: 6, to: bytes)
        unsafe bytes.store(bigEndian: error.rawValue, at: NBDNumbers.chunkBytes)
        unsafe bytes.store(bigEndian: UInt16(0), at: NBDNumbers.chunkBytes + 4)
        unsafe send(UnsafeRawBufferPointer(bytes))
    }

    private func writeSimpleHeader(
        _ error: NBDErrorNumber, _ request: Request, to bytes: UnsafeMutableRawBufferPointer
    ) {
        unsafe bytes.store(bigEndian: NBDNumbers.simpleReply, at: 0)
        unsafe bytes.store(bigEndian: error.rawValue, at: 4)
        unsafe bytes.store(bigEndian: request.cookie, at: 8)
    }

    /// Of the only chunk of its reply.
    private func writeChunkHeader(
        _ type: UInt16, _ request: Request, count: Int, to bytes: UnsafeMutableRawBufferPointer
    ) {
        unsafe bytes.store(bigEndian: NBDNumbers.structuredReply, at: 0)
        unsafe bytes.store(bigEndian: NBDNumbers.chunkIsLast, at: 4)
        unsafe bytes.store(bigEndian: type, at: 6)
        unsafe bytes.store(bigEndian: request.cookie, at: 8)
        unsafe bytes.store(bigEndian: UInt32(count), at: 16)
    }
}
