import BlockIO
import LinuxSystem
import TestSupport

extension TortureWorld {
    /// One command, or some at once, that meet a fault; then what they promise is looked at, and the same again.
    func round() throws {
        switch random.below(10) {
        case 0..<3: try backupRound()
        case 3..<6: try migrationRound()
        case 6: try restoreRound()
        case 7: try quietBackupRound()
        case 8: try crowdRound()
        default: try serverRound()
        }
    }

    private var someSignal: Int32 {
        [Signal.kill, Signal.kill, Signal.kill, Signal.terminate, Signal.interrupt][random.below(5)]
    }

    /// Lets a command meet a fault at some instant. - Returns: whether the disk's server was killed.
    private func disturb(_ command: TortureCommand, within milliseconds: Int) throws -> Bool {
        let instant = random.below(milliseconds)
        switch random.below(8) {
        case 0..<4:
            try interrupt(command, within: milliseconds)
        case 4, 5:
            if try command.isRunning(after: instant), try there.server.cutConnections() > 0 {
                disturbed("connections cut after \(instant) ms")
            }
        case 6:
            if try command.isRunning(after: instant) {
                try killServer()
                return true
            }
        default:
            let host = hosts[random.below(2)]
            try host.fill(leaving: UInt64(random.below(8 << 20)))
            disturbed("\(host.path) filled")
        }
        return false
    }

    private func interrupt(_ command: TortureCommand, within milliseconds: Int) throws {
        let instant = random.below(milliseconds)
        let signal = someSignal
        if try command.interrupt(after: instant, signal) { disturbed("signal \(signal) after \(instant) ms") }
    }

    private func makeSpace() { for host in hosts { host.empty() } }

    // MARK: Backup and restore

    private var backupArguments: [String] { ["backup", disk, "--store", store] }

    private func backupRound() throws {
        try live()
        let start = mark()
        let command = try self.start(backupArguments)
        let isKilled = try disturb(command, within: 600)
        let result = try command.end(within: 120_000)
        makeSpace()
        let found = try checkNewPoints(since: start, isKilled: isKilled)
        if result.status == 0 && found != 1 { throw TortureFailure("\(result.text): \(found) new points") }
        if isKilled { try compare(isExact: false) }
        try live()
        let second = mark()
        _ = try run(backupArguments).expectSuccess()
        guard try checkNewPoints(since: second) == 1 else { throw TortureFailure("the backup left no point") }
        backedUp = second
    }

    /// Nobody writes meanwhile: so much, and no more, may be stored.
    private func quietBackupRound() throws {
        try live()
        guest?.awaitRequests(200)
        quiet()
        let start = model.mark()
        let before = try hosts[0].allocated("store")
        let touched = backedUp.map {
            model.chunksTouched(
                in: model.spans(since: $0), blocksPerChunk: TortureWorld.chunkBytes / TortureModel.blockBytes)
        }
        var tries = 0
        repeat {
            tries += 1
            let command = try self.start(backupArguments)
            if tries < 4 { try interrupt(command, within: 400) }
            if try command.end(within: 120_000).status == 0 { break }
        } while tries < 5
        guard try checkNewPoints(since: start) >= 1 else { throw TortureFailure("\(tries) backups left no point") }
        let grown = try hosts[0].allocated("store") - before
        // Each try may have lost what it had not made durable, and has metadata of its own.
        let bound = UInt64((touched ?? TortureWorld.diskBytes / TortureWorld.chunkBytes) * TortureWorld.chunkBytes)
        guard grown <= bound + UInt64(tries) * (5 << 20) else {
            throw TortureFailure("\(tries) backups of \(bound) changed bytes took \(grown) in the store")
        }
        backedUp = start
    }

    private struct Restored: Decodable { var digest: String }

    private func restoreRound() throws {
        guard let point = points.keys.sorted().randomElement(using: &random), let wanted = points[point] else {
            return try backupRound()
        }
        let isRaw = random.oneIn(2)
        let target = "\(here.path)/restored"
        let arguments = ["restore", point, "--store", store, isRaw ? "--raw" : "--to", target]
        let command = try self.start(arguments)
        let isKilled = try disturb(command, within: 300)
        let first = try command.end(within: 120_000)
        makeSpace()
        let files = LinuxFileSystem()
        // One that was ended at its very end has made it visible, and may have said so: then it is whole.
        let isTold = (try? first.decode(Restored.self)) != nil
        let isDone =
            try first.status == 0 || files.exists(target) && (isTold || first.status == 128 + Signal.kill)
        if !isDone {
            guard try !files.exists(target) else { throw TortureFailure("\(first.text): but \(target) is there") }
            _ = try run(arguments).expectSuccess()
        }
        let raw = isRaw ? target : target + ".raw"
        if !isRaw { _ = try run(["disk", "export", target, raw]).expectSuccess() }
        guard try contents(ofFile: raw) == wanted else {
            throw TortureFailure("\(point) was restored as something else")
        }
        try expectTool("rm", "-r", "-f", target, target + ".raw")
        let left = try files.list(here.path).filter { $0.hasPrefix("restored") }
        guard left.isEmpty else { throw TortureFailure("a restore left \(left)") }
        if isKilled || random.oneIn(2) { try compare(isExact: false) }
    }

    // MARK: Several at once

    private func crowdRound() throws {
        try live()
        let start = mark()
        let kinds = [
            backupArguments, ["snapshot", "create", disk], ["snapshot", "merge", disk], ["disk", "compact", disk],
            ["status"], ["disk", "check", disk],
        ]
        let commands = try (0..<2 + random.below(3)).map { _ in try self.start(kinds[random.below(kinds.count)]) }
        for command in commands where random.oneIn(2) { try interrupt(command, within: 200) }
        for command in commands { _ = try command.end(within: 120_000) }
        try checkNewPoints(since: start)
        try compare(isExact: true)
    }

    private func serverRound() throws {
        try live()
        guest?.awaitRequests(random.below(100))
        try killServer()
        try compare(isExact: false)
    }

    // MARK: Migration

    private struct Recovery: Decodable { var owner: String }

    private func migrationRound() throws {
        try live()
        moves += 1
        let newName = "disk\(moves)"
        let old = (path: disk, host: here)
        let arguments = ["migrate", disk, "far:\(there.path)/\(newName)"]
        let command = try self.start(arguments)
        var isKilled = try disturb(command, within: 1500)
        var result = try command.end(within: 180_000)
        makeSpace()
        var tries = 0
        while result.status != 0 {
            tries += 1
            guard tries < 5 else { throw TortureFailure("after \(tries) tries: \(result.text)") }
            let recovery = try run(["migrate", "--recover", disk]).expectSuccess()
            if try recovery.decode(Recovery.self).owner == "target" { break }
            // The disk is ours: whoever uses it goes on, or can after it was attached again.
            try compare(isExact: !isKilled)
            isKilled = false
            try live()
            let again = try start(arguments)
            if tries == 1, random.oneIn(2) { isKilled = try disturb(again, within: 1500) }
            result = try again.end(within: 180_000)
            makeSpace()
        }
        moved(to: newName)
        let second = try old.host.run(["disk", "attach", old.path, "--backend", "user"], far: here)
        guard second.status != 0 else { throw TortureFailure("\(old.path) has an owner besides \(disk)") }
        try compare(isExact: !isKilled)
        try expectTool("rm", "-r", "-f", old.path)
    }
}
