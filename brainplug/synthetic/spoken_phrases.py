"""The phrases of the spoken corpus: 31 intents and their phrasings. A change of a phrase raises CORPUS_VERSION."""

ROOMS = {"bedroom": ("bedroom",), "kitchen": ("kitchen",), "washroom": ("washroom", "bathroom")}
ROOM_PHRASES = {  # action and object -> phrasings, in which {room} stands for a name of the room
    "activate lights": [
        "turn on the {room} lights",
        "turn the lights on in the {room}",
        "switch on the {room} lights",
        "{room} lights on",
        "lights on in the {room}",
        "light up the {room}",
        "I need light in the {room}",
        "make it bright in the {room}",
    ],
    "deactivate lights": [
        "turn off the {room} lights",
        "turn the lights off in the {room}",
        "switch off the {room} lights",
        "{room} lights off",
        "lights off in the {room}",
        "no more light in the {room}",
        "put out the {room} lights",
        "make it dark in the {room}",
    ],
    "increase heat": [
        "turn up the heat in the {room}",
        "turn the {room} heat up",
        "make the {room} warmer",
        "warm up the {room}",
        "heat up the {room}",
        "the {room} is too cold",
        "more heat in the {room}",
        "raise the {room} temperature",
    ],
    "decrease heat": [
        "turn down the heat in the {room}",
        "turn the {room} heat down",
        "make the {room} cooler",
        "cool down the {room}",
        "cool the {room}",
        "the {room} is too hot",
        "less heat in the {room}",
        "lower the {room} temperature",
    ],
}


def _room_phrases() -> dict[str, list[str]]:
    """Writes out the phrasings for every room; where a room has two names they take turns."""
    return {
        f"{action} {room}": [phrase.format(room=names[i % len(names)]) for i, phrase in enumerate(phrases)]
        for action, phrases in ROOM_PHRASES.items()
        for room, names in ROOMS.items()
    }


PHRASES: dict[str, list[str]] = {  # intent (action, object, place) -> phrasings
    **_room_phrases(),
    "activate lights none": [
        "turn on the lights",
        "turn the lights on",
        "switch on the lights",
        "switch the lights on",
        "lights on",
        "all lights on please",
        "I need some light",
        "it is too dark in here",
    ],
    "deactivate lights none": [
        "turn off the lights",
        "turn the lights off",
        "switch off the lights",
        "switch the lights off",
        "lights off",
        "all lights off please",
        "put the lights out",
        "it is too bright in here",
    ],
    "activate lamp none": [
        "turn on the lamp",
        "turn the lamp on",
        "switch on the lamp",
        "switch the lamp on",
        "lamp on",
        "lamp on please",
        "light the lamp",
    ],
    "deactivate lamp none": [
        "turn off the lamp",
        "turn the lamp off",
        "switch off the lamp",
        "switch the lamp off",
        "lamp off",
        "lamp off please",
        "put out the lamp",
    ],
    "activate music none": [
        "turn on the music",
        "turn the music on",
        "play some music",
        "play music",
        "start the music",
        "put on a song",
        "music please",
        "let me hear a song",
    ],
    "deactivate music none": [
        "turn off the music",
        "turn the music off",
        "stop the music",
        "stop playing music",
        "pause the music",
        "music off",
        "no more music",
        "end this song",
    ],
    "bring juice none": [
        "bring me some juice",
        "bring the juice",
        "get me the juice",
        "get me a glass of juice",
        "fetch some juice",
        "I want some juice",
        "juice please",
    ],
    "bring newspaper none": [
        "bring me the newspaper",
        "bring the newspaper",
        "get me the newspaper",
        "go and get the newspaper",
        "fetch the newspaper",
        "I want my newspaper",
        "newspaper please",
    ],
    "bring shoes none": [
        "bring me my shoes",
        "bring the shoes",
        "get me my shoes",
        "go and get my shoes",
        "fetch my shoes",
        "I want my shoes",
        "shoes please",
    ],
    "bring socks none": [
        "bring me my socks",
        "bring the socks",
        "get me my socks",
        "go and get some socks",
        "fetch my socks",
        "I want my socks",
        "socks please",
    ],
    "change language none": [
        "change the language",
        "switch the language",
        "set another language",
        "use a different language",
        "I want another language",
        "open the language settings",
        "change my phone language",
    ],
    "change language chinese": [
        "change the language to Chinese",
        "switch to Chinese",
        "set the language to Chinese",
        "use Chinese",
        "speak Chinese",
        "Chinese please",
        "I want it in Chinese",
    ],
    "change language english": [
        "change the language to English",
        "switch to English",
        "set the language to English",
        "use English",
        "speak English",
        "English please",
        "I want it in English",
    ],
    "change language german": [
        "change the language to German",
        "switch to German",
        "set the language to German",
        "use German",
        "speak German",
        "German please",
        "I want it in German",
    ],
    "change language korean": [
        "change the language to Korean",
        "switch to Korean",
        "set the language to Korean",
        "use Korean",
        "speak Korean",
        "Korean please",
        "I want it in Korean",
    ],
    "increase volume none": [
        "turn up the volume",
        "turn the volume up",
        "turn it up",
        "make it louder",
        "louder please",
        "raise the volume",
        "more volume",
        "I cannot hear this",
    ],
    "decrease volume none": [
        "turn down the volume",
        "turn the volume down",
        "turn it down",
        "make it quieter",
        "quieter please",
        "lower the volume",
        "less volume",
        "this is too loud",
    ],
    "increase heat none": [
        "turn up the heat",
        "turn the heat up",
        "make it warmer",
        "warmer please",
        "raise the temperature",
        "more heat",
        "it is too cold in here",
        "I am cold",
    ],
    "decrease heat none": [
        "turn down the heat",
        "turn the heat down",
        "make it cooler",
        "cooler please",
        "lower the temperature",
        "less heat",
        "it is too hot in here",
        "I am hot",
    ],
}


def phrase_words() -> set[str]:
    """All words of all phrasings, in lower case; pre-training for the demo leaves them out.

    Example
    -------
    >>> "newspaper" in phrase_words()
    True
    """
    return {word for phrases in PHRASES.values() for phrase in phrases for word in phrase.lower().split()}
