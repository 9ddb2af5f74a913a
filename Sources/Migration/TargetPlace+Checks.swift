internal import BlockIO
internal import Geometry
internal import LinuxSystem

extension TargetPlace {
    /// Room beside the data itself: tables, journals, the hash tree.
    private static let spareBytes: UInt64 = 64 << 20

    /// Everything that keeps the disk from coming here. Changes nothing.
    func problems(_ offer: MigrationOffer) throws(SystemError) -> (problems: [String], partialBytes: UInt64) {
        // Of a version that is not ours nothing else is known for sure.
        if let problem = offer.versionProblem { return ([problem], 0) }
        var problems = offer.problems
        if problems.isEmpty, let objection = disks.objection(to: offer.shape) { problems.append(objection) }
        if let problem = try nameProblem() { problems.append(problem) }
        guard try fs.isFolder(parent) else { return (problems, 0) }
        let (partialProblem, partialBytes) = try examinePartial(offer)
        if let partialProblem { problems.append(partialProblem) }
        let space = try fs.space(at: parent)
        let needed = offer.usedBytes.addingSaturated(Self.spareBytes)
        if space.freeBytes.addingSaturated(partialBytes) < needed {
            problems.append(
                "\(parent) has \(SizeText.format(space.freeBytes)) free, "
                    + "the disk needs \(SizeText.format(needed - partialBytes))"
            )
        }
        if let problem = writeProblem() { problems.append(problem) }
        return (problems, partialBytes)
    }

    /// Why the disk can't be put in place under its name, which is used by a rename: a link would be replaced or
    /// followed, and a name that leads nowhere is none that is free.
    func nameProblem() throws(SystemError) -> String? {
        guard !["", ".", "..", "/"].contains(name), folder != "/" else {
            return "\(folder.isEmpty ? "the target" : folder) is no name for a disk's folder"
        }
        guard try fs.isFolder(parent) else {
            return "\(parent): there is no such folder to put the disk in; create it"
        }
        guard try fs.isTaken(folder) else { return nil }
        return try fs.exists(folder)
            ? "\(folder) exists already; name another folder, or remove it"
            : "\(folder) is a symbolic link that leads nowhere; mount what it leads to, or remove it"
    }

    /// Whether what lies there is ours and can be gone on with, and how much it takes up.
    private func examinePartial(_ offer: MigrationOffer) throws(SystemError) -> (problem: String?, bytes: UInt64) {
        guard try fs.isTaken(partial) else { return (nil, 0) }
        guard try fs.isFolder(partial) else { return ("\(partial) is no folder; remove it", 0) }
        // Only within one folder of one file system can it be renamed.
        let whole = try fs.resolve(parent)
        let place = PathText.join(whole, fileName(of: partial))
        guard try fs.resolve(partial).isSame(as: place),
            try fs.identity(of: partial)?.device == fs.identity(of: parent)?.device
        else {
            return ("\(partial) is a symbolic link, or has a file system of its own; remove it, or unmount that", 0)
        }
        do throws(SystemError) {
            let record = try fs.record(IncomingRecord.self, at: incoming)
            if record?.identity == offer.identity, record?.state != .active {
                return (nil, try fs.exists(image) ? fs.open(image, .read).allocatedBytes() : 0)
            }
            let isOurs = { (name: String) in name.begins(with: MigrationFiles.incoming) || name == MigrationFiles.lock }
            if record == nil, try fs.list(partial).allSatisfy(isOurs) { return (nil, 0) }
            return ("\(partial) holds a part of another disk; remove it", 0)
        } catch {
            return ("\(partial): \(error.description); remove it", 0)
        }
    }

    /// Whether a name can be made in the parent folder. It is gone again when this returns.
    private func writeProblem() -> String? {
        let probe = partial + ".probe"
        do throws(SystemError) {
            // One may be left of a process that died between these two.
            if try !fs.exists(probe) { try fs.createFolder(probe) }
            try fs.removeFolder(probe)
            return nil
        } catch {
            return "\(parent) cannot be written: \(error.description)"
        }
    }
}

extension MigrationOffer {
    var versionProblem: String? {
        guard protocolVersion != MigrationMessage.version else { return nil }
        return "the migration's messages have version \(protocolVersion), this host's have "
            + "\(MigrationMessage.version): bring both hosts to one version of godwit"
    }

    /// What is wrong with the numbers themselves, whatever host they come to.
    var problems: [String] {
        var problems: [String] = []
        if sizeBytes == 0 || sizeBytes > HashTreeFile.byteCountMax || !hasChunks {
            problems.append("a disk of \(sizeBytes) bytes in chunks of \(chunkBytes) cannot be migrated")
        }
        if usedBytes > HashTreeFile.byteCountMax * 2 {
            problems.append("a disk that takes up \(usedBytes) bytes cannot be migrated")
        }
        if let startCommand, startCommand.utf8.count > MigrationFiles.commandMax {
            problems.append(
                "a start command of \(startCommand.utf8.count) bytes is too long (at most "
                    + "\(MigrationFiles.commandMax)): put it into a file there")
        }
        if !MigrationIdentity.isOne(identity) { problems.append("'\(identity.prefix(80))' is no disk's identity") }
        return problems
    }
}

/// The random names of disks and attempts: up to 64 letters and digits.
enum MigrationIdentity {
    static func make() -> String {
        randomBytes(16).map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
    }

    static func isOne(_ text: String) -> Bool {
        (1...64).contains(text.utf8.count)
            && text.utf8.allSatisfy { byte in
                (48...57).contains(byte) || (97...122).contains(byte) || (65...90).contains(byte)
            }
    }
}

extension UInt64 {
    func addingSaturated(_ other: UInt64) -> UInt64 {
        let (sum, overflow) = addingReportingOverflow(other)
        return overflow ? .max : sum
    }
}
